import pytest

pytest.register_assert_rewrite("fsd_conformance")
