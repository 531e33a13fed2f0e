# These tests run in a copy of Medley, where this file is not; see tests/test_toy_task.py.
collect_ignore = ["inside"]
