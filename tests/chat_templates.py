"""Chat templates of seven families, written for the tests in the manner of the real ones, each with what its assistant says of a turn.

``FAMILIES`` write plain talk of users and assistants. ``RICH`` also write system prompts, tools, calls of them and thoughts, as far as the family has them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from tunefleet.data.examples import Message

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
TOOLS = (
    "{% if tools %}{{ '<|im_start|>system\n' }}{% for tool in tools %}{{ tool | tojson }}{{ '\n' }}{% endfor %}{{ '<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<|im_start|>assistant\n' }}"
    "{% if message.reasoning_content %}{{ '<think>\n' + message.reasoning_content + '\n</think>\n\n' }}{% endif %}{{ message['content'] }}"
    "{% for call in message.tool_calls or [] %}{{ '\n<tool_call>\n' }}{{ call['function'] | tojson }}{{ '\n</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}"
    "{% elif message['role'] == 'tool' %}{{ '<|im_start|>user\n<tool_response>\n' + message['content'] + '\n</tool_response><|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
REWRITING = (  # as Qwen3: an empty thought opens the answer to the last question, and only that one
    "{% set ns = namespace(last=-1) %}{% for message in messages %}{% if message['role'] == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' and loop.index0 > ns.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FAMILIES = {"chatml": (CHATML, "<|im_end|>"), "llama3": (LLAMA3, "<|eot_id|>"), "mistral": (MISTRAL, "</s>"), "gemma": (GEMMA, "<end_of_turn>")}
FAMILIES["tools"] = (TOOLS, "<|im_end|>")

THINKING = (  # as Qwen3: tools in the system turn; thoughts stay only behind the last question of the user
    "{% if tools %}{{ '<|im_start|>system\n' }}{% if messages[0].role == 'system' %}{{ messages[0].content + '\n\n' }}{% endif %}"
    "{{ '<tools>' }}{% for tool in tools %}{{ '\n' }}{{ tool | tojson }}{% endfor %}{{ '\n</tools><|im_end|>\n' }}"
    "{% elif messages[0].role == 'system' %}{{ '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}{% endif %}"
    "{% set ns = namespace(last=-1) %}{% for message in messages %}{% if message.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for message in messages %}"
    "{% if message.role == 'user' %}{{ '<|im_start|>user\n' + message.content + '<|im_end|>\n' }}"
    "{% elif message.role == 'assistant' %}{{ '<|im_start|>assistant\n' }}"
    "{% if message.reasoning_content and loop.index0 > ns.last %}{{ '<think>\n' + message.reasoning_content + '\n</think>\n\n' }}{% endif %}"
    "{{ message.content }}"
    "{% for call in message.tool_calls or [] %}{{ '\n<tool_call>\n' }}{{ call.function | tojson }}{{ '\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}"
    "{% elif message.role == 'tool' %}{{ '<|im_start|>user\n<tool_response>\n' + message.content + '\n</tool_response><|im_end|>\n' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3_TOOLS = (  # as Llama 3.1: a call is a turn of its own, in JSON; the tool answers under the role ipython
    "{{ bos_token }}{{ '<|start_header_id|>system<|end_header_id|>\n\n' }}{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}"
    "{% if tools %}{{ '\nTools: ' }}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}{{ '<|eot_id|>' }}"
    "{% for message in messages %}{% if message.role == 'system' %}{% elif message.tool_calls %}"
    "{% if message.tool_calls | length != 1 %}{{ raise_exception('one call a turn') }}{% endif %}"
    "{% set call = message.tool_calls[0].function %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{{ '{\"name\": \"' + call.name + '\", \"parameters\": ' }}{{ call.arguments | tojson }}{{ '}<|eot_id|>' }}"
    "{% elif message.role == 'tool' %}{{ '<|start_header_id|>ipython<|end_header_id|>\n\n' + message.content + '<|eot_id|>' }}"
    "{% else %}{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + message.content + '<|eot_id|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL_TOOLS = (  # as Mistral 7B v0.3: the tools stand before the last question, so earlier turns change as the conversation goes on
    "{{ bos_token }}{% set ns = namespace(last=-1) %}"
    "{% for message in messages %}{% if message.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for message in messages %}"
    "{% if message.role == 'user' %}{% if tools and loop.index0 == ns.last %}"
    "{{ '[AVAILABLE_TOOLS] ' }}{{ tools | tojson }}{{ '[/AVAILABLE_TOOLS]' }}{% endif %}"
    "{{ '[INST] ' + message.content + ' [/INST]' }}"
    "{% elif message.role == 'tool' %}{{ '[TOOL_RESULTS] ' + message.content + '[/TOOL_RESULTS]' }}"
    "{% elif message.tool_calls %}{{ '[TOOL_CALLS] [' }}"
    "{% for call in message.tool_calls %}{{ call.function | tojson }}{{ ', ' if not loop.last else '' }}{% endfor %}{{ ']' + eos_token }}"
    "{% elif message.role == 'assistant' %}{{ ' ' + message.content + eos_token }}"
    "{% else %}{{ raise_exception('only user, assistant and tool') }}{% endif %}{% endfor %}"
)
HARMONY = (  # as gpt-oss: channels; the last answer ends with another token than those before it, whose thoughts are gone
    "{{ '<|start|>system<|message|>You speak in channels.<|end|>' }}"
    "{% if tools %}{{ '<|start|>developer<|message|># Tools\n' }}{% for tool in tools %}{{ tool | tojson }}{{ '\n' }}{% endfor %}{{ '<|end|>' }}{% endif %}"
    "{% set ns = namespace(call='') %}{% for message in messages %}"
    "{% if message.role == 'assistant' %}"
    "{% if message.thinking and (message.tool_calls or loop.last) %}"
    "{{ '<|start|>assistant<|channel|>analysis<|message|>' + message.thinking + '<|end|>' }}{% endif %}"
    "{% if message.tool_calls %}{% set ns.call = message.tool_calls[0].function.name %}"
    "{{ '<|start|>assistant to=functions.' + ns.call + '<|channel|>commentary json<|message|>' }}{{ message.tool_calls[0].function.arguments | tojson }}"
    "{{ '<|call|>' }}{% else %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + message.content + ('<|return|>' if loop.last else '<|end|>') }}{% endif %}"
    "{% elif message.role == 'tool' %}{{ '<|start|>functions.' + ns.call + ' to=assistant<|channel|>commentary<|message|>' + message.content + '<|end|>' }}"
    "{% else %}{{ '<|start|>' + ('developer' if message.role == 'system' else message.role) + '<|message|>' + message.content + '<|end|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
DEEPSEEK = (  # as DeepSeek V3: the system prompt in front, arguments of calls as text
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'system' %}{{ message.content }}{% endif %}{% endfor %}"
    "{% if tools %}{{ '\nTools: ' }}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}"
    "{% for message in messages %}"
    "{% if message.role == 'user' %}{{ '<|User|>' + message.content }}"
    "{% elif message.role == 'tool' %}{{ '<|tool_output|>' + message.content + '<|tool_output_end|>' }}"
    "{% elif message.role == 'assistant' and message.tool_calls %}{{ '<|Assistant|>' + message.content + '<|calls|>' }}"
    "{% for call in message.tool_calls %}{{ call.function.name + '\n```json\n' + call.function.arguments + '\n```' }}{% endfor %}"
    "{{ '<|calls_end|>' + eos_token }}"
    "{% elif message.role == 'assistant' %}{{ '<|Assistant|>' + message.content + eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|Assistant|>' }}{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """A template, what its assistant says of a turn (to the letter), and what it can write."""

    template: str
    says: Callable[[Message], str]
    system: bool = True
    tools: bool = True
    calls_and_content: bool = True
    rewrites: bool = False


def _called(message: Message) -> list[dict]:
    return [call["function"] for call in (message.extra or {}).get("tool_calls", ())]


def _thought(message: Message) -> str:
    return (message.extra or {}).get("reasoning_content", "")


def _thinking(message: Message) -> str:
    thought = f"<think>\n{_thought(message)}\n</think>\n\n" if _thought(message) else ""
    return thought + message.content + "".join(f"\n<tool_call>\n{dumped(call)}\n</tool_call>" for call in _called(message)) + "<|im_end|>"


def _llama3(message: Message) -> str:
    called = "".join(f'{{"name": "{call["name"]}", "parameters": {dumped(call["arguments"])}}}' for call in _called(message))
    return (called or message.content) + "<|eot_id|>"


def _mistral(message: Message) -> str:
    called = ", ".join(dumped(call) for call in _called(message))
    return (f"[TOOL_CALLS] [{called}]" if called else f" {message.content}") + "</s>"


def _harmony(message: Message) -> str:
    thought = f"<|channel|>analysis<|message|>{_thought(message)}<|end|><|start|>assistant" if _thought(message) else ""
    called = "".join(f" to=functions.{call['name']}<|channel|>commentary json<|message|>{dumped(call['arguments'])}<|call|>" for call in _called(message))
    return thought + (called or f"<|channel|>final<|message|>{message.content}<|return|>")


def _deepseek(message: Message) -> str:
    called = "".join(f"{call['name']}\n```json\n{dumped(call['arguments'])}\n```" for call in _called(message))
    return message.content + (f"<|calls|>{called}<|calls_end|>" if called else "") + "</s>"


def dumped(value: object) -> str:
    """JSON as transformers' tojson writes it."""
    return json.dumps(value, ensure_ascii=False)


RICH = {
    "thinking": Family(THINKING, _thinking, rewrites=True),
    "llama3": Family(LLAMA3_TOOLS, _llama3, calls_and_content=False),
    "mistral": Family(MISTRAL_TOOLS, _mistral, system=False, calls_and_content=False, rewrites=True),
    "harmony": Family(HARMONY, _harmony, calls_and_content=False, rewrites=True),
    "deepseek": Family(DEEPSEEK, _deepseek),
    "gemma": Family(GEMMA, lambda message: message.content + "<end_of_turn>", system=False, tools=False),
}
