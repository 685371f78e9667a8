"""Flyte's literals to Python values and back, without flytekit's type engine.

In the connector, the type engine would fetch a literal from any location that it names, unpickle it
if its metadata asks for that, and copy local files again.
"""

from typing import Any, TypeVar

import msgpack
from flytekit.core.constants import MESSAGEPACK
from flytekit.models.literals import Binary, Literal, LiteralMap, Primitive, Scalar
from google.protobuf.json_format import MessageToDict

from batchflow.errors import InvalidInput

T = TypeVar("T")


def input_value(inputs: LiteralMap, name: str, expected: type[T]) -> T:
    """A ``str`` or ``dict`` input; raises InvalidInput.

    flytekit sends a dict as msgpack, and before 1.14 as a Struct.
    """
    literal = inputs.literals.get(name)
    if literal is None:
        raise InvalidInput(f"The task needs the input {name}.")
    try:
        value = _scalar_value(literal.scalar)
    except ValueError as error:
        raise InvalidInput(
            f"The task's input {name} can't be read ({type(error).__name__})."
        ) from error
    if not isinstance(value, expected):
        raise InvalidInput(f"The task's input {name} must be a {expected.__name__}.")
    return value


def input_file(inputs: LiteralMap, name: str) -> str:
    """The URI of a file input; raises InvalidInput."""
    literal = inputs.literals.get(name)
    if literal is None or literal.scalar is None or literal.scalar.blob is None:
        raise InvalidInput(f"The task's input {name} must be a JSONL file.")
    return str(literal.scalar.blob.uri)


def output(result: Literal) -> LiteralMap:
    """The outputs of a task: all task types have one, ``result``."""
    return LiteralMap(literals={"result": result})


def string_literal(value: str) -> Literal:
    """A ``str``."""
    return Literal(scalar=Scalar(primitive=Primitive(string_value=value)))


def dict_literal(value: dict[str, Any]) -> Literal:
    """A ``dict``, encoded as flytekit does."""
    packed = msgpack.packb(value)
    return Literal(scalar=Scalar(binary=Binary(value=packed, tag=MESSAGEPACK)))


def batch_result_literal(uris: dict[str, str | None]) -> Literal:
    """A ``BatchResult`` with files at these URIs."""
    return dict_literal({name: {"path": uri} if uri else None for name, uri in uris.items()})


def _scalar_value(scalar: Scalar | None) -> Any:
    """A scalar's value, or None for other kinds; raises ValueError for malformed msgpack."""
    if scalar is None:
        return None
    if scalar.primitive is not None:
        return scalar.primitive.string_value
    if scalar.binary is not None and scalar.binary.tag == MESSAGEPACK:
        return msgpack.unpackb(scalar.binary.value)
    if scalar.generic is not None:
        return MessageToDict(scalar.generic)
    return None
