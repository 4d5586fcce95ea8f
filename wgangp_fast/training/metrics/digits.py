"""Samples of the embedded digits: a classifier's verdict."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor

from wgangp_fast.optional_dependencies import require
from wgangp_fast.training.data import digits

from .coverage import covered


@cache
def digit_classifier() -> tuple[Any, dict[str, float]]:
    """A perceptron (one hidden layer of 100) trained on three quarters of the real digits.

    Returns:
        the classifier, and on the other quarter: accuracy, and mean confidence, which is what samples as
        good as real ones would get.

    Raises:
        UserError: scikit-learn is not installed.
    """
    images, labels = digits()
    split = require("sklearn.model_selection").train_test_split
    train, test, train_labels, test_labels = split(
        images.flatten(1).numpy(), labels.numpy(), test_size=0.25, random_state=0, stratify=labels.numpy()
    )
    network = require("sklearn.neural_network").MLPClassifier((100,), max_iter=300, random_state=0)
    _fit(network, train, train_labels)
    confidence = float(network.predict_proba(test).max(axis=1).mean())
    return network, {"accuracy": float(network.score(test, test_labels)), "confidence": confidence}


def _fit(network: Any, samples: Any, labels: Any) -> None:
    """Train; scikit-learn takes Ctrl-C as the end of the training, and would judge with what it has."""
    interrupted = "Training interrupted by user"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", interrupted, UserWarning)
            network.fit(samples, labels)
    except UserWarning as warning:
        if interrupted not in str(warning):
            raise
        raise KeyboardInterrupt from None


def digit_quality(images: Tensor) -> dict[str, Any]:
    """What the classifier says of images ``[N, 1, 8, 8]`` in [-1, 1].

    Returns:
        classes_covered of 10 (a tenth of its fair share, as in :mod:`.modes`), class_shares ``[10]``,
        confidence (mean largest probability), score (exp of the mean KL divergence between p(y|x) and
        p(y), from 1 to 10; an inception-type score of this classifier, comparable with no other), and of
        real held-out digits classifier_accuracy and classifier_confidence.
    """
    classifier, held_out = digit_classifier()
    p = torch.as_tensor(classifier.predict_proba(images.flatten(1).cpu().numpy())).double()  # [N, 10]
    counts = torch.bincount(p.argmax(dim=1), minlength=10)
    tiny = torch.finfo(p.dtype).tiny
    divergence = (p * ((p + tiny).log() - (p.mean(0) + tiny).log())).sum(1)
    return {
        "classes": 10,
        "classes_covered": covered(counts, len(images)),
        "class_shares": [round(float(share), 4) for share in counts / len(images)],
        "confidence": float(p.max(dim=1).values.mean()),
        "score": float(divergence.mean().exp()),
        "samples": len(images),
        "classifier_accuracy": held_out["accuracy"],
        "classifier_confidence": held_out["confidence"],
    }
