"""Self-contained reports of an analysis."""

from neuros_mechint.reporting.html import Report

__all__ = ["Report"]
