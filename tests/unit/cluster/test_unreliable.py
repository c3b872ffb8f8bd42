"""A node that fails twice is avoided, by its address, as long as the others hold the group."""

from tunefleet.cluster.unreliable import Members, elsewhere, unreliable

A, B, C = "10.0.0.1", "10.0.0.2", "10.0.0.3"


def test_two_failures_of_a_node_make_it_unreliable_whichever_rank_was_there():
    groups = [Members(1, {0: A, 1: B}), Members(2, {0: B, 1: C}), Members(3, {0: A, 1: C})]
    assert unreliable(groups, [(1, (1,))]) == set()
    assert unreliable(groups, [(1, (1,)), (2, (0,))]) == {B}
    assert unreliable(groups, [(1, (1,)), (2, (1,)), (3, (0,))]) == set()


def test_two_ranks_of_a_node_that_fail_at_once_are_one_failure():
    assert unreliable([Members(1, {0: A, 1: A})], [(1, (0, 1))]) == set()


def node(address, alive=True, **resources):
    return {"NodeManagerAddress": address, "Alive": alive, "Resources": resources}


def test_a_node_is_done_without_only_where_the_living_others_hold_every_worker():
    nodes = [node(A, CPU=4.0), node(B, CPU=4.0), node(C, alive=False, CPU=8.0)]
    assert elsewhere({B}, nodes, 2, {"CPU": 2.0})
    assert not elsewhere({B}, nodes, 3, {"CPU": 2.0})
    assert not elsewhere({B}, nodes, 1, {"CPU": 1.0, "GPU": 1.0})
    assert not elsewhere({A, B}, nodes, 1, {"CPU": 1.0})


def test_workers_do_not_span_nodes():
    assert not elsewhere(set(), [node(A, CPU=3.0), node(B, CPU=3.0)], 3, {"CPU": 2.0})
