"""JUnit's XML, which build servers read: a test case for each rule; an inconclusive one is skipped. What is counted and
no rule is among the properties."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree


def junit_xml(document: dict[str, Any]) -> str:
    rules = document["rules"]
    suite = ElementTree.Element(
        "testsuite",
        name=f"loadtest {document['scenario']}",
        tests=str(len(rules)),
        failures=str(sum(rule["outcome"] == "failed" for rule in rules)),
        skipped=str(sum(rule["outcome"] == "inconclusive" for rule in rules)),
        timestamp=document["at"],
        time=f"{document['seconds']:.3f}",
    )
    properties = ElementTree.SubElement(suite, "properties")
    for one in document["models"]:
        name = f"{one['model']} {one['build']}".strip()
        counted = {key: one[key] for key in ("attempts", "good", "refused", "beyond_promise", "given_up")}
        counted |= {f"returns.{key}": one["returns"][key] for key in ("at_first", "came_back", "tries", "let_in")}
        for what, value in counted.items():
            ElementTree.SubElement(properties, "property", name=f"{what} {name}", value=str(value))
    for rule in rules:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=f"loadtest.{document['scenario']}",
            name=f"{rule['rule']} {rule['subject']}".strip(),
        )
        said = f"{rule['value']:.4g}, wanted {rule['wanted']:.4g}: {rule['why']}"
        if rule["outcome"] == "failed":
            ElementTree.SubElement(case, "failure", message=said)
        elif rule["outcome"] == "inconclusive":
            ElementTree.SubElement(case, "skipped", message=said)
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"
