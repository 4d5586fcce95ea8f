#include <algorithm>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "cpu/parallel.h"

namespace wgangp_fast::cpu {
namespace {

// Workers sleep between calls. A call is cut into one part for each thread; the caller takes the first.
class Pool {
 public:
  explicit Pool(int64_t threads) {
    for (int64_t i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
  }

  ~Pool() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  int64_t threads() const { return static_cast<int64_t>(workers_.size()) + 1; }

  void run(int64_t begin, int64_t end, int64_t parts, Body body, void* context) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      begin_ = begin, end_ = end, parts_ = parts, body_ = body, context_ = context;
      left_ = threads() - 1;
      ++call_;
    }
    wake_.notify_all();
    part(0, begin, end, parts, body, context);
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return left_ == 0; });
  }

 private:
  static void part(int64_t index, int64_t begin, int64_t end, int64_t parts, Body body, void* context) {
    if (index >= parts) return;
    const int64_t each = (end - begin + parts - 1) / parts;
    const int64_t from = begin + index * each, to = std::min(end, from + each);
    if (from < to) body(from, to, context);
  }

  void work(int64_t index) {
    int64_t seen = 0;
    for (;;) {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return stop_ || call_ != seen; });
      if (stop_) return;
      seen = call_;
      const int64_t begin = begin_, end = end_, parts = parts_;
      const Body body = body_;
      void* const context = context_;
      lock.unlock();
      part(index, begin, end, parts, body, context);
      lock.lock();
      if (--left_ == 0) done_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::vector<std::thread> workers_;
  bool stop_ = false;
  int64_t call_ = 0, left_ = 0, begin_ = 0, end_ = 0, parts_ = 0;
  Body body_ = nullptr;
  void* context_ = nullptr;
};

std::mutex pool_mutex;
std::unique_ptr<Pool> pool;
int64_t wanted = 0;
thread_local bool inside = false;  // a body that calls a kernel: serial

}  // namespace

void set_threads(int64_t count) {
  const std::lock_guard<std::mutex> lock(pool_mutex);
  wanted = count;
  pool.reset();
}

void parallel_for_threads(int64_t begin, int64_t end, int64_t grain, Body body, void* context) {
  if (begin >= end) return;
  std::unique_lock<std::mutex> lock(pool_mutex, std::defer_lock);
  if (inside || end - begin <= grain || !lock.try_lock()) return body(begin, end, context);
  if (!pool) {
    const int64_t machine = std::max<int64_t>(1, std::thread::hardware_concurrency());
    pool = std::make_unique<Pool>(wanted > 0 ? wanted : machine);
  }
  const int64_t parts = std::min(pool->threads(), (end - begin) / std::max<int64_t>(grain, 1));
  if (parts <= 1) return body(begin, end, context);
  inside = true;
  pool->run(begin, end, parts, body, context);
  inside = false;
}

}  // namespace wgangp_fast::cpu
