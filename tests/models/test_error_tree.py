"""Errors cross processes by pickle and reach clients with a status, a type and a code."""

import pickle

import pytest

from models import errors
from models.errors import ServingError

ALL = sorted(
    (kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ServingError)),
    key=lambda kind: kind.__name__,
)


@pytest.mark.parametrize("kind", ALL)
def test_an_error_survives_pickling(kind):
    error = pickle.loads(pickle.dumps(kind("Too long.", "messages[0]", 2.5)))
    assert type(error) is kind
    assert (error.message, error.param, error.retry_after) == ("Too long.", "messages[0]", 2.5)


@pytest.mark.parametrize("kind", ALL)
def test_an_error_survives_pickling_with_a_message_alone(kind):
    error = pickle.loads(pickle.dumps(kind("Too long.")))
    assert (error.message, error.param, error.retry_after) == ("Too long.", None, None)


@pytest.mark.parametrize("kind", ALL)
def test_an_error_has_a_status_a_type_and_a_code(kind):
    assert 400 <= kind.status < 600
    assert isinstance(kind.type, str)
    assert kind.type
    assert isinstance(kind.code, str)
    assert kind.code
    assert isinstance(kind.retryable, bool)


def test_codes_are_distinct():
    codes = [kind.code for kind in ALL]
    assert len(codes) == len(set(codes))


def test_only_errors_of_time_of_rate_and_of_the_server_are_retryable():
    assert all(kind.status in (408, 429, 503, 504) for kind in ALL if kind.retryable)
