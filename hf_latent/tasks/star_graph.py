"""Star-graph paths: many arms, one of them leads to the goal; generate, format, verify, and a tokenizer."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from itertools import pairwise, permutations
from typing import TYPE_CHECKING, Any

from hf_latent.tasks.drawing import draw_splits, split_of_key
from hf_latent.tasks.symbols import NUMBERS, before_eos, symbol_tokenizer

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

__all__ = ["StarGraphTask", "star_graph_tokenizer"]


class StarGraphTask:
    """Find the path from the middle of a star to the end of one of its arms (arXiv 2403.06963, section 4).

    One instance of `StarGraphTask(2, 4, num_nodes=10)`, formatted as in the paper's data (a number or a sign is one
    token):

    ```
    prompt      "7,3|5,0|4,8|3,4|0,1|7,5/7,8="
    completion  "7,3,4,8"
    ```

    The prompt has the directed edges in random order, then start and goal. All arms are alike; which one leads to the
    goal shows only when it is followed from its end, while the tokens behind the first step follow from the token
    before. A model that is trained to predict the next token of such paths learns to walk, and guesses the arm: it
    solves one in `degree`. Train and test never share an instance, whatever the order of the edges.

    With `edge_tokens` every edge is one token, and a path is the edges that it takes:

    ```
    prompt      "7>3;5>0;4>8;3>4;0>1;7>5;8;7;"
    completion  "7>3;3>4;4>8;"
    ```

    To follow an edge then takes one look instead of two, which a small model learns in a tenth of the updates; which
    arm to take is as hard. The goal stands before the start, so that every edge continues the token before it.

    Tokens: `4 * degree * (path_length - 1) + 4` of the prompt and `2 * path_length` of the completion with `<eos>`;
    36 and 10 by default. With `edge_tokens`: `degree * (path_length - 1) + 2` and `path_length`.

    Args:
        degree (`int`): arms of the star, at least 2.
        path_length (`int`): nodes of a path with start and goal, at least 3. The paper's G(2, 5) is the default.
        num_nodes (`int`): numbers that nodes are drawn from, at least `degree * (path_length - 1) + 1`.
        edge_tokens (`bool`): whether an edge is one token; the vocabulary then grows with the square of `num_nodes`.

    Changelog: version 1, first release.
    """

    name = "star_graph"
    version = 1

    def __init__(
        self, degree: int = 2, path_length: int = 5, *, num_nodes: int = 50, edge_tokens: bool = False
    ) -> None:
        for name, value, least in (("degree", degree, 2), ("path_length", path_length, 3)):
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value!r}.")
        self.num_edges = degree * (path_length - 1)
        if num_nodes <= self.num_edges:
            raise ValueError(
                f"`num_nodes` must be at least `degree * (path_length - 1) + 1` = {self.num_edges + 1}, "
                f"got {num_nodes!r}."
            )
        self.degree, self.path_length, self.num_nodes = degree, path_length, num_nodes
        self.edge_tokens = edge_tokens

    @property
    def completion_length(self) -> int:
        """Tokens of a completion: nodes and commas, or edges, and the end-of-sequence token."""
        return self.path_length if self.edge_tokens else 2 * self.path_length

    # Generator

    def generate(self, num_graphs: int, seed: int, *, split: str = "train") -> list[dict[str, Any]]:
        """Distinct graphs with start and goal, the same on every platform for the same arguments.

        Args:
            num_graphs (`int`): how many; `ValueError` if no new one turns up in 2000 draws.
            seed (`int`): seeds the generator; has no influence on the split a graph belongs to.
            split (`str`): "train" (9 graphs in 10) or "test".

        Returns:
            `list[dict]`: "edges" (`"7,3|5,0"`, directed), "start", "goal" (numbers), "path" (`"7,3,4"`).
        """
        return self.generate_splits({split: num_graphs}, seed)[split]

    def generate_splits(self, nums: Mapping[str, int], seed: int) -> dict[str, list[dict[str, Any]]]:
        """[`StarGraphTask.generate`] for each split and number of `nums`, with every graph drawn once."""
        rng = random.Random(f"star graph {self.degree} {self.path_length} {self.num_nodes} {seed}")
        sizes = f"`degree`={self.degree}, `path_length`={self.path_length} and `num_nodes`={self.num_nodes}"
        return draw_splits(nums, lambda: self._draw(rng), key_of, what=f"graphs with {sizes}")

    def _draw(self, rng: random.Random) -> dict[str, Any]:
        start, *nodes = rng.sample(range(self.num_nodes), self.num_edges + 1)
        arms = [[start, *nodes[i :: self.degree]] for i in range(self.degree)]
        edges = [f"{a},{b}" for arm in arms for a, b in pairwise(arm)]
        rng.shuffle(edges)
        return {
            "edges": "|".join(edges),
            "start": start,
            "goal": arms[0][-1],  # the nodes are in random order, so any arm is
            "path": ",".join(map(str, arms[0])),
        }

    def split_of(self, graph: dict[str, Any]) -> str:
        """ "test" for one graph in ten, else "train": a hash of start, goal and the set of edges."""
        return split_of_key(key_of(graph))

    def difficulty(self, instance: dict[str, Any]) -> int:
        """Edges from the goal back to the start, all of which have to be seen before the first step is known."""
        return instance["path"].count(",")

    # Formatter

    def format(self, instance: dict[str, Any]) -> dict[str, str]:
        """The prompt and the completion of a graph."""
        edges, start, goal = instance["edges"], instance["start"], instance["goal"]
        if not self.edge_tokens:
            return {"prompt": f"{edges}/{start},{goal}=", "completion": instance["path"]}
        path = pairwise(instance["path"].split(","))
        return {
            "prompt": f"{edges.replace(',', '>').replace('|', ';')};{goal};{start};",
            "completion": "".join(f"{a}>{b};" for a, b in path),
        }

    def dataset(self, num_graphs: int, seed: int, *, split: str = "train") -> Dataset:
        """`generate(...)` as a dataset with the columns of `format` and of the graphs."""
        from datasets import Dataset

        graphs = self.generate(num_graphs, seed, split=split)
        return Dataset.from_list([self.format(graph) | graph for graph in graphs])

    # Verifier

    def verify(self, edges: str, start: int, goal: int, answer: str) -> bool:
        """Whether `answer`, read up to `<eos>`, walks along directed edges from `start` to `goal`, no node twice."""
        text = before_eos(answer)
        if not re.fullmatch(r"\d+(,\d+)*", text):
            return False
        path = [int(node) for node in text.split(",")]
        known = {tuple(map(int, edge.split(","))) for edge in edges.split("|")}
        walked = all(edge in known for edge in pairwise(path))
        return walked and len(set(path)) == len(path) and (path[0], path[-1]) == (start, goal)

    def is_solved(self, instance: dict[str, Any], completion: str) -> bool:
        """[`StarGraphTask.verify`] for an instance."""
        answer = nodes_of(before_eos(completion)) if self.edge_tokens else completion
        return self.verify(instance["edges"], instance["start"], instance["goal"], answer)

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """See [`star_graph_tokenizer`]."""
        prompt_length = self.num_edges + 2 if self.edge_tokens else 4 * self.num_edges + 4
        return star_graph_tokenizer(
            self.num_nodes, edge_tokens=self.edge_tokens, model_max_length=prompt_length + self.completion_length
        )


def key_of(graph: dict[str, Any]) -> str:
    """What a graph is, whatever the order of its edges."""
    return f"{'|'.join(sorted(graph['edges'].split('|')))}/{graph['start']},{graph['goal']}"


def nodes_of(path: str) -> str:
    """`"7>3;3>4;"` to `"7,3,4"`; what is no path, to the empty text."""
    if not re.fullmatch(r"(\d+>\d+;)+", path):
        return ""
    edges = [edge.split(">") for edge in path[:-1].split(";")]
    if any(a[1] != b[0] for a, b in pairwise(edges)):
        return ""
    return ",".join([edges[0][0], *(end for _, end in edges)])


def star_graph_tokenizer(
    num_nodes: int = 50, *, edge_tokens: bool = False, model_max_length: int = 512
) -> PreTrainedTokenizerFast:
    """
    A tokenizer with the special tokens `<pad>`, `<eos>`, `<mask>` and one for each node and for the signs `,|/=`; or,
    with `edge_tokens`, one for each node and each edge, with the `;` behind it.

    Args:
        num_nodes (`int`): nodes are 0..num_nodes - 1. The vocabulary has 7 tokens more, or 3 and one for each edge.
    """
    nodes = list(map(str, range(num_nodes)))
    if not edge_tokens:
        return symbol_tokenizer([*",|/=", *nodes], pattern=NUMBERS, model_max_length=model_max_length)
    edges = [f"{a}>{b};" for a, b in permutations(nodes, 2)]
    symbols = [*(f"{node};" for node in nodes), *edges]
    return symbol_tokenizer(symbols, pattern=r"\d+(>\d+)?;", model_max_length=model_max_length)
