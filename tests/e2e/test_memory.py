"""The global model is never copied per site."""

from tests.bench.memory import measure


def test_a_simulation_needs_at_most_half_the_memory_of_a_plain_flow() -> None:
    shared, plain = measure("shared"), measure("plain")
    assert shared <= 0.5 * plain
