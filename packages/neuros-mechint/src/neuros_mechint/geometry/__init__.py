"""Geometry: dimension, distances, bending and holes of a cloud of points."""

from neuros_mechint.geometry.curvature import (
    CurvatureResult,
    ManifoldCurvature,
    Straightness,
    StraightnessResult,
    TrajectoryCurvature,
)
from neuros_mechint.geometry.dimension import (
    DimensionCurve,
    IntrinsicDimension,
    ParticipationRatio,
)
from neuros_mechint.geometry.geodesics import GeodesicDistance
from neuros_mechint.geometry.persistence import (
    PersistenceResult,
    PersistenceSignificance,
    PersistentHomology,
)
from neuros_mechint.geometry.subspaces import TangentSubspace

__all__ = [
    "CurvatureResult",
    "DimensionCurve",
    "GeodesicDistance",
    "IntrinsicDimension",
    "ManifoldCurvature",
    "ParticipationRatio",
    "PersistenceResult",
    "PersistenceSignificance",
    "PersistentHomology",
    "Straightness",
    "StraightnessResult",
    "TangentSubspace",
    "TrajectoryCurvature",
]
