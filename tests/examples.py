"""How many examples tests try: few in CI, more in a long run.

`PALETTERY_TEST_EXAMPLES=1000 make test-heavy` has every random test try at least 1,000 examples
(configs, groups, requests, calls of each operator), and every product of parameters run whole,
if it has no more combinations than that.
"""

import os

EXAMPLES = int(os.environ.get("PALETTERY_TEST_EXAMPLES", "0"))
"""Least number of examples; 0 for the few of CI."""


def examples(few: int) -> int:
    """Return how many examples to try: `few`, or more in a long run."""
    return max(few, EXAMPLES)
