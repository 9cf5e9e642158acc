"""From archives to a store: sessions are listed, fetched, prepared in parallel and appended.

Raw files stay in `raw/<source>/<session>/` of the store's folder. What is finished is skipped, what
was cut is resumed, and one failing session does not stop the others.
"""

from neuros_data.preparation._download import download, run_download
from neuros_data.preparation._look import licence_terms, list_sessions, plan_download
from neuros_data.preparation._plan import DownloadPlan
from neuros_data.preparation._prepare import prepare, run_prepare
from neuros_data.preparation._report import PreparationReport

__all__ = [
    "DownloadPlan",
    "PreparationReport",
    "download",
    "licence_terms",
    "list_sessions",
    "plan_download",
    "prepare",
    "run_download",
    "run_prepare",
]
