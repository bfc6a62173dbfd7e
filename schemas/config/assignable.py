"""Config models whose fields can be assigned, as in coreai-opt."""

from palettery.schemas.base import Schema


class AssignableSchema(Schema, frozen=False):
    """A model that is validated as a whole, including relations of fields, on each assignment."""

    __hash__ = None  # type: ignore[assignment]

    def __setattr__(self, name: str, value: object) -> None:
        """Assign a field, or raise ValidationError and change nothing."""
        validated = self.model_validate({**dict(self), name: value})
        # Bypasses this method and pydantic's, which validates the assigned field alone.
        self.__dict__[name] = getattr(validated, name)
        self.__pydantic_fields_set__.add(name)
