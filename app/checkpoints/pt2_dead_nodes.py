"""Dead code elimination: nodes that nothing depends on are removed, and so never run."""

from collections.abc import Iterable

from palettery.app.checkpoints.pt2_operators import has_effects
from palettery.app.checkpoints.pt2_schema import Argument, Graph, GraphArgument, NamedArgument, Node


def remove_dead_nodes(graph: Graph) -> Graph:
    """Return the graph with only the nodes that its outputs depend on, or that have effects."""
    live_names = {name for output in graph.outputs for name in output.names()}
    live_nodes: list[Node] = []
    for node in reversed(graph.nodes):
        if has_effects(node) or not live_names.isdisjoint(node.output_names()):
            live_names.update(node.input_names())
            live_nodes.append(_prune_node(node))
    return _with_nodes(graph, live_nodes[::-1])


def _prune_node(node: Node) -> Node:
    if not any(node.subgraphs()):
        return node
    return node.model_copy(update={"inputs": [_prune_input(input_) for input_ in node.inputs]})


def _prune_input(input_: NamedArgument) -> NamedArgument:
    subgraph = input_.arg.as_graph
    if subgraph is None:
        return input_
    graph = GraphArgument(name=subgraph.name, graph=remove_dead_nodes(subgraph.graph))
    return input_.model_copy(update={"arg": Argument(as_graph=graph)})


def _with_nodes(graph: Graph, nodes: list[Node]) -> Graph:
    """Return the graph with these nodes, and with the metadata of their values only."""
    arguments: Iterable[Argument] = (*graph.inputs, *graph.outputs)
    names = {name for argument in arguments for name in argument.names()}
    names.update(name for node in nodes for name in (*node.output_names(), *node.input_names()))
    fields = ("tensor_values", "sym_int_values", "sym_bool_values", "sym_float_values")
    values = {
        field: {name: value for name, value in getattr(graph, field).items() if name in names}
        for field in fields
        if field in graph.model_fields_set
    }
    return graph.model_copy(update={"nodes": nodes, **values})
