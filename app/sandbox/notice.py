"""What the log says of the sandbox when a process of the service starts."""

import logging

from palettery.app.sandbox.confinement import missing
from palettery.app.settings import Sandbox

log = logging.getLogger(__name__)


def note_sandbox(settings: Sandbox) -> None:
    """Log which protections this machine lacks for strangers' models, and what follows from it."""
    for sentence in missing():
        if settings.required:
            log.warning(
                "%s: exports that run a model and configs of transformers are refused here "
                "(docs/security.md; PALETTERY_SANDBOX_REQUIRED=false runs them unprotected)",
                sentence,
            )
        else:
            log.warning("%s: whoever sends a model can attack this machine", sentence)
