"""Star graphs: what is drawn is a star, every walk is judged as brute force does."""

from __future__ import annotations

import itertools

import pytest

from hf_latent.tasks import StarGraphTask, star_graph_tokenizer

EXAMPLE = {"edges": "7,3|5,0|4,8|3,4|0,1|7,5", "start": 7, "goal": 8, "path": "7,3,4,8"}  # of the docstring


def edges_of(graph: dict) -> list[tuple[int, ...]]:
    return [tuple(map(int, edge.split(","))) for edge in graph["edges"].split("|")]


def walks(graph: dict) -> list[list[int]]:
    """Every way from start to goal, by following all edges."""
    ways, found = [[graph["start"]]], []
    while ways:
        way = ways.pop()
        found += [way] if way[-1] == graph["goal"] else []
        ways += [[*way, b] for a, b in edges_of(graph) if a == way[-1]]
    return found


@pytest.mark.parametrize(("degree", "length", "nodes"), [(2, 5, 50), (5, 3, 11), (3, 7, 30)])
def test_a_graph_is_a_star_with_one_way_to_the_goal(degree: int, length: int, nodes: int) -> None:
    task = StarGraphTask(degree, length, num_nodes=nodes)
    arms = set()
    for graph in task.generate(50, 0):
        edges = edges_of(graph)
        starts, ends = [a for a, _ in edges], [b for _, b in edges]
        assert len(set(edges)) == len(edges) == degree * (length - 1)
        assert starts.count(graph["start"]) == degree
        assert max(starts.count(node) for node in set(starts) - {graph["start"]}) == 1
        assert len(set(ends)) == len(ends) and graph["start"] not in ends
        assert set(starts + ends) <= set(range(nodes))
        assert [",".join(map(str, way)) for way in walks(graph)] == [graph["path"]]
        assert graph["path"].count(",") == length - 1 == task.difficulty(graph)
        leaves = [node for node in ends if node not in starts]
        assert len(leaves) == degree
        arms.add(sorted(leaves).index(graph["goal"]))
        for leaf in leaves:
            assert [len(way) for way in walks(graph | {"goal": leaf})] == [length]
    assert arms == set(range(degree)), "each arm is the right one now and then"


def test_edges_tell_nothing_by_their_order() -> None:
    """The first edge belongs to the right arm in half of 400 graphs: within five standard errors."""
    graphs = StarGraphTask().generate(400, 0)
    first = sum(set(edges_of(graph)[0]) <= set(map(int, graph["path"].split(","))) for graph in graphs)
    assert abs(first / 400 - 0.5) < 5 * 0.5 / 20


def test_splits_never_meet_in_whatever_order_edges_stand() -> None:
    """Few nodes, so that most small graphs are drawn: 6 numbers, 5 of them in a star of two arms, 720 choices."""
    task = StarGraphTask(2, 3, num_nodes=6)

    def keys(graphs: list[dict]) -> list[tuple]:
        return [(frozenset(edges_of(graph)), graph["start"], graph["goal"]) for graph in graphs]

    train, test = keys(task.generate(400, 1)), keys(task.generate(40, 2, split="test"))
    assert len(set(train)) == 400 and len(set(test)) == 40
    assert not set(train) & set(test)
    shuffled = EXAMPLE | {"edges": "|".join(EXAMPLE["edges"].split("|")[::-1])}
    assert task.split_of(shuffled) == task.split_of(EXAMPLE)
    with pytest.raises(ValueError, match=r"Found only .* of 2000 train graphs with `degree`=2"):
        task.generate(2000, 0)  # 6 * 5 * 4 * 3 * 2 = 720 ordered choices


def test_of_all_paths_of_up_to_four_nodes_one_is_right() -> None:
    task = StarGraphTask(2, 4, num_nodes=10)
    right = [
        path
        for length in (1, 2, 3, 4)
        for path in itertools.product((0, 1, 3, 4, 5, 7, 8), repeat=length)
        if task.is_solved(EXAMPLE, ",".join(map(str, path)))
    ]
    assert right == [(7, 3, 4, 8)]


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "7,8",
        "7,3,4",
        "3,4,8",
        "8,4,3,7",
        "7,5,0,1",
        "7,3,4,8,",
        ",7,3,4,8",
        "7,3,<mask>,8",
        "7|3|4|8",
        "7,3,4,8,8",
    ],
)
def test_wrong_answers_are_wrong(answer: str) -> None:
    assert not StarGraphTask(2, 4, num_nodes=10).is_solved(EXAMPLE, answer)


def test_no_node_is_visited_twice() -> None:
    """A walk round a circle would come to the goal, too."""
    task = StarGraphTask()
    assert task.verify("1,2|2,1|1,3", 1, 3, "1,3")
    assert not task.verify("1,2|2,1|1,3", 1, 3, "1,2,1,3")


@pytest.mark.parametrize("tail", ["", "<eos>", "<eos><pad>", "<eos>7,8"])
def test_what_follows_the_end_of_the_answer_does_not_matter(tail: str) -> None:
    assert StarGraphTask(2, 4, num_nodes=10).is_solved(EXAMPLE, EXAMPLE["path"] + tail)


def test_texts_are_as_in_the_docstring_and_lengths_as_announced() -> None:
    text = StarGraphTask(2, 4, num_nodes=10).format(EXAMPLE)
    assert text == {"prompt": "7,3|5,0|4,8|3,4|0,1|7,5/7,8=", "completion": "7,3,4,8"}
    for task in (StarGraphTask(), StarGraphTask(4, 6, num_nodes=120)):
        tokenizer = task.tokenizer()
        text = task.format(task.generate(1, 0)[0])
        whole = text["prompt"] + text["completion"] + "<eos>"
        ids = tokenizer(whole)["input_ids"]
        assert tokenizer.decode(ids) == whole
        assert len(tokenizer(text["prompt"])["input_ids"]) == 4 * task.degree * (task.path_length - 1) + 4
        assert len(tokenizer(text["completion"] + "<eos>")["input_ids"]) == task.completion_length
        assert len(ids) == tokenizer.model_max_length
    assert len(star_graph_tokenizer(50)) == 57


def test_with_edge_tokens_an_edge_is_one_token() -> None:
    """Else a lookup takes two looks again, and the lengths that models are built for are wrong."""
    task = StarGraphTask(2, 4, num_nodes=12, edge_tokens=True)
    text = task.format(EXAMPLE)
    assert text == {"prompt": "7>3;5>0;4>8;3>4;0>1;7>5;8;7;", "completion": "7>3;3>4;4>8;"}
    tokenizer = task.tokenizer()
    whole = text["prompt"] + text["completion"] + "<eos>"
    ids = tokenizer(whole)["input_ids"]
    assert tokenizer.decode(ids) == whole
    assert len(ids) == tokenizer.model_max_length == (6 + 2) + task.completion_length
    assert tokenizer.convert_ids_to_tokens(ids[:2]) == ["7>3;", "5>0;"]
    assert len(tokenizer) == 3 + 12 + 12 * 11
    for graph in task.generate(20, 0):  # numbers of two digits, too
        ids = tokenizer(task.format(graph)["prompt"])["input_ids"]
        assert len(ids) == 8 and task.is_solved(graph, task.format(graph)["completion"] + "<eos><pad>")


@pytest.mark.parametrize(
    "answer",
    ["", "7>3;", "7>3;3>4;", "7>3;4>8;", "7>5;5>0;0>1;", "3>4;4>8;", "7>3;3>4;4>8", "7,3,4,8", "7>8;"],
)
def test_wrong_edges_are_wrong(answer: str) -> None:
    task = StarGraphTask(2, 4, num_nodes=10, edge_tokens=True)
    assert not task.is_solved(EXAMPLE, answer)
    assert task.is_solved(EXAMPLE, "7>3;3>4;4>8;<eos>7;")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"degree": 1}, "`degree` must be at least 2, got 1"),
        ({"path_length": 2}, "`path_length` must be at least 3, got 2"),
        ({"degree": 3, "path_length": 4, "num_nodes": 9}, r"`num_nodes` must be at least .* = 10, got 9"),
    ],
)
def test_bad_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StarGraphTask(**options)
