"""The client's faces on a real Swarm: maps, decorators, asyncio, and a script of the old SDK's."""

import pytest

# The very tests of the local platform.
from tests.e2e.test_e2e_faces import (  # noqa: F401
    test_an_old_script_with_its_import_changed,
    test_decorated_functions,
    test_jobs_as_futures,
)
from tests.e2e.test_e2e_map import (  # noqa: F401
    test_ctrl_c_cancels_all_that_is_under_way_and_says_which,
    test_errors_come_at_their_place,
    test_the_async_one_does_the_same,
    test_values_come_in_order_and_output_in_whole_lines,
)

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]
