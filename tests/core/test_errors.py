"""Messages of errors: what is left out of them."""

from __future__ import annotations

from e3relax_flows.core.errors import StoreError

WORDS = "db.example.org:27017: [Errno -2] Name or service not known"
TIMEOUTS = " (configured timeouts: socketTimeoutMS: 20000.0ms, connectTimeoutMS: 20000.0ms)"
DRIVER = (
    f"{WORDS}{TIMEOUTS}, Timeout: 30s, Topology Description: <TopologyDescription id: 6b04, topology_type: Unknown, "
    f"servers: [<ServerDescription ('db.example.org', 27017) server_type: Unknown, rtt: None, "
    f"error=AutoReconnect('{WORDS}{TIMEOUTS}')>]>"
)


def test_a_server_that_is_not_there_is_one_line_without_the_state_of_the_driver():
    error = StoreError(f"mongodb://db.example.org/x cannot be reached ({DRIVER}); start the server")
    assert str(error) == f"mongodb://db.example.org/x cannot be reached ({WORDS}); start the server"


def test_other_messages_stay_as_they_are():
    text = "the store holds 3 documents, Timeout: none"
    assert str(StoreError(text)) == text
