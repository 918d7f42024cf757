"""`/metrics`, read by Prometheus's own parser of its text format."""

from urllib.request import urlopen

import pytest
from harness.plain_http import post

parser = pytest.importorskip("prometheus_client.parser", reason="comes with the newest client's requirements")


def test_the_page_is_read_by_the_stock_parser(serve):
    server = serve("echo", "--metrics")
    call = {"type": "call_tool", "tool_name": "echo_message", "arguments": {"message": "hi"}}
    post(f"{server.url}/reset", {})
    post(f"{server.url}/step", {"action": call})
    with urlopen(f"{server.url}/metrics", timeout=20) as reply:
        families = {
            family.name: family for family in parser.text_string_to_metric_families(reply.read().decode())
        }
    # The parser names a counter without its suffix.
    assert families["oxenv_sessions_opened"].type == "counter"
    assert families["oxenv_operation_seconds"].type == "histogram"
    assert all(family.documentation for family in families.values())
    counts = {
        sample.labels["kind"]: sample.value
        for sample in families["oxenv_operation_seconds"].samples
        if sample.name == "oxenv_operation_seconds_count"
    }
    assert counts == {"reset": 1.0, "step": 1.0}
    buckets = [sample for sample in families["oxenv_tool_call_seconds"].samples if "le" in sample.labels]
    assert buckets[-1].labels["le"] == "+Inf" and buckets[-1].value == 1.0
    values = [sample.value for sample in buckets]
    assert values == sorted(values) and len(values) == 21
