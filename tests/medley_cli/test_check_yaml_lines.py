"""A document keeps the line of every key, and refuses what says two things at once."""

import pytest
import yaml
from seeded_mistakes import CATALOG, REPOSITORY, SERVE, SLO

from medley.checks.yaml_lines import MISSING, MOST_NODES, read_document

TEXT = """\
# a comment
top: 1
applications:
  - name: one
    deployments:
      - name: model
        limit:
          5
  - {name: two, port: 1}
"""


@pytest.fixture
def read(tmp_path):
    def write_and_read(text: str | bytes):
        file = tmp_path / "file.yaml"
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return read_document(file)

    return write_and_read


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ((), 2),
        (("top",), 2),
        (("applications",), 3),
        (("applications", 0), 4),
        (("applications", 0, "deployments", 0, "name"), 6),
        (("applications", 0, "deployments", 0, "limit"), 7),
        (("applications", 1, "port"), 9),
        (("applications", 1, "args", "model"), 9),
    ],
)
def test_a_path_has_the_line_of_its_key_or_of_what_would_hold_it(read, path, line):
    assert read(TEXT).line(path) == line


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (("top",), "top"),
        (("applications", 0, "deployments", 0, "limit"), "application one, deployments[model].limit"),
        (("applications", 1), "application two"),
        (("applications", 7, "port"), "applications[7].port"),
    ],
)
def test_a_path_is_said_in_words(read, path, words):
    assert read(TEXT).where(path) == words


@pytest.mark.parametrize("file", [SERVE, "serve_config.gpu.yaml", CATALOG, SLO])
def test_the_shipped_files_read_as_pyyaml_reads_them(file):
    path = REPOSITORY / file
    document = read_document(path)
    assert document.problems == []
    assert document.value == yaml.safe_load(path.read_text())


def test_anchors_and_merges_read_as_pyyaml_reads_them(read):
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: [*a, {z: 4}]}\nd: *a\n"
    document = read(text)
    assert document.problems == []
    assert document.value == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (".nan", "must be a finite number, but is .nan"),
        ("-.INF", "must be a finite number, but is -.INF"),
        ("1.0e+400", "must be a finite number, but is 1.0e+400"),
        ("1:30", "YAML reads 1:30 to the base 60, as 90. Write 90"),
        ("80:00", "YAML reads 80:00 to the base 60, as 4800. Write 4800"),
        ("010", "YAML reads 010 to the base 8, as 8. Write 8"),
    ],
)
@pytest.mark.parametrize("place", ["a: {}\n", "a: [{}]\n", "b: {{a: [1, {}]}}\n"])
def test_a_number_that_is_none_or_another_than_was_meant_is_named(read, written, said, place):
    (problem,) = read(place.format(written)).problems
    assert said in problem.message


@pytest.mark.parametrize("written", ["0", "0.5", "-0", "0x10", "1_000", "1.5e+3", '"010"', "'1:30'", "00:aa"])
def test_other_numbers_and_texts_are_taken(read, written):
    assert read(f"a: {written}\n").problems == []


def test_every_key_that_stands_twice_is_named_and_the_first_one_kept(read):
    document = read("a: 1\nb: {c: 1, c: 2}\na: 3\n")
    assert [str(problem).split(":", 1)[1] for problem in document.problems] == [
        "2: b.c: this key already stands in line 2. Keep one of the two.",
        "3: a: this key already stands in line 1. Keep one of the two.",
    ]
    assert document.at(("a",)) == 1
    assert document.at(("b", "d")) is MISSING


BOMB = "a: &a [1]\n" + "".join(
    f"{one}: &{one} [{','.join([f'*{before}'] * 10)}]\n" for before, one in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGE_BOMB = "a: &a {x: 1}\n" + "".join(
    f"{one}: &{one} {{<<: [{','.join([f'*{before}'] * 10)}]}}\n"
    for before, one in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [(BOMB, "the aliases stand for more"), (MERGE_BOMB, "the aliases stand for more"), ("a: &a [*a]\n", "too deeply")],
    ids=["sequences", "merges", "itself"],
)
def test_aliases_without_end_are_refused_before_they_are_followed(read, text, message):
    document = read(text)
    assert not document.readable
    (problem,) = document.problems
    assert message in problem.message
    assert len(document.lines) <= MOST_NODES + 1


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\nb: [", 2, "not valid YAML"),
        ("a: 1\nb: !!python/object:os.system x\n", 2, "could not determine a constructor"),
        ("a: 1\nb: 2026-13-45\n", 2, "Put it in quotes if it is text"),
        ("a: 1\n? [x]\n: 2\n", 2, "a key must be text"),
        ("a: 1\n---\nb: 2\n", 2, "expected a single document"),
        ("a: \x07\n", 1, "not valid YAML"),
        ("[" * 5000, 1, "nested too deeply"),
        (b"a: \xff\xfe\n", None, "not UTF-8"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_line(read, text, line, message):
    document = read(text)
    assert not document.readable
    (problem,) = document.problems
    assert problem.line == line
    assert message in str(problem)
