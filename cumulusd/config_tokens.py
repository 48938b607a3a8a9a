"""The configuration's list `tokens`: who may come in."""

import hashlib
import re
from typing import Any, Literal

from pydantic import ValidationInfo, field_validator, model_validator

from cumulusd.config_platform import Section
from cumulusd.identity import NAME, Principal, Role

#: Shortest token taken: 128 bits in hex are 32 characters, in base64 22.
MIN_TOKEN_CHARACTERS = 20
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Token(Section):
    """Somebody who may come in. After loading, `token_sha256` is always set.

    The token itself is never kept: its hash stands in the file, or it comes from an environment
    variable, `token_env` or, when neither is given, `CUMULUSD_TOKEN_<NAME>`.
    """

    name: str
    owner: str
    role: Literal["client", "admin", "viewer"]
    token_sha256: str | None = None
    token_env: str | None = None

    @field_validator("name", "owner")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        if not NAME.fullmatch(value):
            raise ValueError(
                "use 1 to 64 letters, digits and . _ @ - (the first a letter or digit)"
            )
        return value

    @field_validator("owner")
    @classmethod
    def _is_not_the_daemon(cls, value: str) -> str:
        if value == "cumulusd":
            raise ValueError("'cumulusd' is the daemon itself; choose another owner")
        return value

    @field_validator("token_sha256")
    @classmethod
    def _is_a_hash(cls, value: str | None) -> str | None:
        if value is not None and not _SHA256.fullmatch(value):
            raise ValueError("give the SHA-256 of the token, 64 lowercase hex digits")
        return value

    @field_validator("token_env")
    @classmethod
    def _is_a_variable(cls, value: str | None) -> str | None:
        if value is not None and not _VARIABLE.fullmatch(value):
            raise ValueError(f"{value!r} is no name of an environment variable")
        return value

    @model_validator(mode="wrap")
    @classmethod
    def _find_secret(cls, data: Any, handler: Any, info: ValidationInfo) -> Any:
        token: Token = handler(data)
        if token.token_sha256 is not None:
            if token.token_env is not None:
                raise ValueError("give token_sha256 or token_env, not both")
            return token
        variable = token.token_env or token.default_variable
        secret = ((info.context or {}).get("environ") or {}).get(variable, "")
        if not secret:
            raise ValueError(
                f"no token_sha256, and the environment variable {variable} is not set, nor is"
                " there a credential of that name; give one"
            )
        if len(secret) < MIN_TOKEN_CHARACTERS:
            raise ValueError(
                f"the token in {variable} is too short: "
                f"at least {MIN_TOKEN_CHARACTERS} characters, made by a random generator"
            )
        digest = hashlib.sha256(secret.encode()).hexdigest()
        return token.model_copy(update={"token_sha256": digest})

    @property
    def default_variable(self) -> str:
        """The environment variable that holds the token when nothing else is said."""
        return "CUMULUSD_TOKEN_" + re.sub(r"[^A-Z0-9]", "_", self.name.upper())

    def principal(self) -> Principal:
        """Whom the token stands for."""
        return Principal(name=self.name, owner=self.owner, role=Role(self.role))
