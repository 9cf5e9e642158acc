"""Optional packages: imported by the call that needs them, named when they are missing."""

from importlib import import_module
from types import ModuleType


def need(module: str, extra: str, what: str) -> ModuleType:
    """Import an optional package, or say which extra brings it.

    Args:
        module: Name to import, such as `"mne"` or `"scipy.io"`.
        extra: Extra of neuros-data that installs it.
        what: What needs it, the beginning of the message, such as `"reading GDF"`.

    Returns:
        The module.

    Raises:
        ImportError: When the package is not installed; a package that is there but fails to
            import raises its own error.

    Examples:
        >>> need("json", "eeg", "reading JSON").__name__
        'json'
    """
    package = module.partition(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise ImportError(
            f"{what} needs {package}; pip install 'neuros-data[{extra}]'", name=package
        ) from error
