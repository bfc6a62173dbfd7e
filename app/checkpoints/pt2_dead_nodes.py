"""Nodes of a graph that nothing depends on: they are left out, so that nobody runs them."""

from collections.abc import Iterable

from palettery.app.checkpoints.pt2_operators import has_effects
from palettery.app.checkpoints.pt2_schema import Argument, Graph, GraphArgument, NamedArgument, Node


def remove_dead_nodes(graph: Graph) -> Graph:
    """The graph with those nodes alone that its outputs depend on, or that change something."""
    live = {name for output in graph.outputs for name in output.names()}
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if has_effects(node) or not live.isdisjoint(node.gives()):
            live.update(node.reads())
            kept.append(_prune_node(node))
    return _keep_nodes(graph, kept[::-1])


def _prune_node(node: Node) -> Node:
    if not any(node.graphs()):
        return node
    return node.model_copy(update={"inputs": [_prune_input(given) for given in node.inputs]})


def _prune_input(given: NamedArgument) -> NamedArgument:
    inner = given.arg.as_graph
    if inner is None:
        return given
    graph = GraphArgument(name=inner.name, graph=remove_dead_nodes(inner.graph))
    return given.model_copy(update={"arg": Argument(as_graph=graph)})


def _keep_nodes(graph: Graph, nodes: list[Node]) -> Graph:
    """The graph with these nodes, and without what is said of the values of others."""
    arguments: Iterable[Argument] = (*graph.inputs, *graph.outputs)
    known = {name for argument in arguments for name in argument.names()}
    known.update(name for node in nodes for name in (*node.gives(), *node.reads()))
    fields = ("tensor_values", "sym_int_values", "sym_bool_values", "sym_float_values")
    values = {
        field: {name: value for name, value in getattr(graph, field).items() if name in known}
        for field in fields
        if field in graph.model_fields_set
    }
    return graph.model_copy(update={"nodes": nodes, **values})
