"""The files of a user's stamps, which the workflow looks at when it plans; they are only read."""

from __future__ import annotations

from shearbench.errors import ConfigError


def observed_files(name: str, stamps: str, psf: str | None) -> list[str]:
    """Return the files of a user's stamps.

    Parameters
    ----------
    name : str
        Name of the observation, for error messages.
    stamps, psf : str
        Paths as the configuration gives them.

    Raises
    ------
    ConfigError
        A file cannot be read.
    """
    files = {"stamps": stamps, **({} if psf is None else {"psf": psf})}
    for key, path in files.items():
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise ConfigError(
                f"observations.{name}.{key}: {path} cannot be read ({error.strerror}); give the path of a "
                "readable file"
            ) from None
    return list(files.values())
