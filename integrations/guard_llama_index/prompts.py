"""Prompts: LlamaIndex's names for them, at any depth."""

from collections import defaultdict

from llama_index.core.prompts.base import BasePromptTemplate
from llama_index.core.prompts.mixin import PromptMixin


class DeepPrompts(PromptMixin):
    """Takes back in ``update_prompts`` every name that ``get_prompts`` gives.

    LlamaIndex's own takes one colon at most: for ``query_engine:response_synthesizer:…`` it raises
    "too many values to unpack" (llama-index-core 0.14.25, prompts/mixin.py).
    """

    def update_prompts(self, prompts_dict: dict[str, BasePromptTemplate]) -> None:
        """Updates these prompts; others stay as they are.

        Raises:
            ValueError: there is no module of that name.
        """
        _update(self, prompts_dict)


def update_prompts(module: PromptMixin, prompts: dict[str, BasePromptTemplate]) -> None:
    """As ``module.update_prompts(prompts)``, for LlamaIndex's own modules with others inside.

        engine = RetryQueryEngine(GuardedQueryEngine(inner, gate), evaluator)
        update_prompts(engine, {"query_engine:query_engine:response_synthesizer:…": template})

    Raises:
        ValueError: there is no module of that name; nothing was updated in the one that lacks it.
    """
    if type(module).update_prompts in (PromptMixin.update_prompts, DeepPrompts.update_prompts):
        _update(module, prompts)
    else:
        module.update_prompts(prompts)


def _update(module: PromptMixin, prompts: dict[str, BasePromptTemplate]) -> None:
    own = dict[str, BasePromptTemplate]()
    below = defaultdict[str, dict[str, BasePromptTemplate]](dict)
    for key, prompt in prompts.items():
        name, colon, rest = key.partition(":")
        if colon:
            below[name][rest] = prompt
        else:
            own[key] = prompt
    modules = module._get_prompt_modules()  # pyright: ignore[reportPrivateUsage]
    for name in below:
        if name not in modules:
            raise ValueError(f"Module {name} not found.")
    module._update_prompts(own)  # pyright: ignore[reportPrivateUsage]
    for name, inner in below.items():
        update_prompts(modules[name], inner)
