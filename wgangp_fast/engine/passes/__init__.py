"""Rewrites of the critic's graph and of the derived sweeps into cheaper code with the same meaning."""
