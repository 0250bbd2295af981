"""How the method gets its name in PEFT: the only place that touches PEFT's closed enumeration of methods.

`register_peft_method` wants the name in `PeftType`, which has no door for outside packages, and `Enum._add_member_`
exists from Python 3.13 on only. So one member is made by hand, in the same steps that `EnumType.__new__` takes.
"""

from enum import Enum
from typing import cast

from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import register_peft_method
from peft.utils.peft_types import PeftType


def add_enum_member(enumeration: type[Enum], name: str) -> Enum:
    """Add the member `name`, with itself as its value, to an enumeration of strings.

    Args:
        enumeration: a subclass of `str` and `Enum`; changed in place.
        name: name and value of the member; one that exists already is returned as it is.

    Returns:
        The member.
    """
    if name in enumeration.__members__:
        return enumeration.__members__[name]
    member = str.__new__(enumeration, name)  # type: ignore[type-var]
    for attribute, value in {
        "_name_": name,
        "_value_": name,
        "__objclass__": enumeration,
        "_sort_order_": len(enumeration._member_names_),
    }.items():
        setattr(member, attribute, value)
    enumeration._member_names_.append(name)
    enumeration._member_map_[name] = member  # type: ignore[assignment]
    enumeration._value2member_map_[name] = member  # type: ignore[assignment]
    if hasattr(enumeration, "_hashable_values_"):  # from Python 3.12.3 on
        enumeration._hashable_values_.append(name)
    type.__setattr__(enumeration, name, member)  # EnumType's own __setattr__ refuses new members
    return cast(Enum, member)


def register(name: str, config_cls: type[PeftConfig], model_cls: type[BaseTuner]) -> None:
    """Make a method known to PEFT under a name; a second call with the same name does nothing.

    Args:
        name: lower case; its upper case form becomes a member of `PeftType`.
        config_cls: the method's configuration.
        model_cls: the method's tuner.
    """
    peft_type = add_enum_member(PeftType, name.upper())
    if peft_type not in PEFT_TYPE_TO_CONFIG_MAPPING:
        register_peft_method(name=name, config_cls=config_cls, model_cls=model_cls)
