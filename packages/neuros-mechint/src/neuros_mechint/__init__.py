"""Mechanistic interpretability for any torch module: patching, probes, fractals, reports."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
