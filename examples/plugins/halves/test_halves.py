"""On simulated models whose answer is known: see :mod:`t2iprobe.simulation`."""

from t2iprobe_halves.method import Halves

from t2iprobe.simulation import Additive, Simulation, simulated


def found(shares):
    runner = simulated(Simulation(Additive(12, shares), 24, 0), held_out=8)
    return Halves().find(runner)


def test_the_layer_is_found():
    assert found({6: 1.0}).layers == (6,)


def test_nothing_is_named_where_no_layer_does_anything():
    assert found({}).layers == ()
