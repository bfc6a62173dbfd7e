"""Log messages about the sandbox when a process of the service starts."""

import logging

from palettery.app.sandbox.confinement import missing_protections
from palettery.app.settings import Sandbox

log = logging.getLogger(__name__)


def log_missing_protections(settings: Sandbox) -> None:
    """Log which protections this machine lacks for untrusted models, and the consequences."""
    for sentence in missing_protections():
        if settings.required:
            log.warning(
                "%s: exports that run a model and transformers configs are refused "
                "(docs/security.md; PALETTERY_SANDBOX_REQUIRED=false runs them unprotected)",
                sentence,
            )
        else:
            log.warning("%s: anyone who uploads a model can attack this machine", sentence)
