"""Who may be named to whom: WAMP's caller and publisher identification."""

from cumulusd.identity import Principal, Role


def may_disclose(principal: Principal) -> bool:
    """May it have itself named to callees and subscribers (`disclose_me`)? An agent may not: its
    name is the worker's."""
    return principal.role is not Role.AGENT


def may_learn_callers(principal: Principal) -> bool:
    """May it be told of all who call it, without their asking (`disclose_caller`)? Those only who
    may see everybody's work and answer for it."""
    return principal.role is Role.ADMIN
