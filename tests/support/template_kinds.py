"""Small chat templates, one for each thing that templates in use do to earlier turns, headers and ends."""

from __future__ import annotations

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

THINKING_LAST = (  # an empty thinking block before the last answer only; thoughts of earlier answers dropped
    "{% set ns = namespace(last=-1) %}{% for m in messages %}"
    "{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% set said = m.content %}{% set thought = m.reasoning_content or '' %}"
    "{% if m.role == 'assistant' and '</think>' in said %}"
    "{% set thought = said.split('</think>')[0].split('<think>')[-1].strip('\\n') %}"
    "{% set said = said.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\\n' }}"
    "{% if m.role == 'assistant' and loop.index0 > ns.last %}"
    "{{ '<think>\\n' + thought + '\\n</think>\\n\\n' }}{% endif %}"
    "{{ said }}"
    "{% for call in m.tool_calls or [] %}{{ '<tool_call>' + (call.function | tojson) + '</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\\n' }}{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"
)

DROPS_THOUGHTS = (  # text split at </think>; a prompt that differs from the header
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '<U>' + m['content'] }}{% endif %}"
    "{% if m['role'] == 'assistant' %}{{ '<A>' + m['content'].split('</think>')[-1] + eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<A><think>\\n' }}{% endif %}"
)

END_AT_CLOSE = (  # an end-of-text token only after the whole conversation
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
)

CHANNELS = (  # a header with a channel, and another end for the last answer
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% if m.thinking and loop.last %}"
    "{{ '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}{% endif %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + m.content }}{{ '<|return|>' if loop.last else '<|end|>' }}"
    "{% else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)

ALTERNATING = (  # refuses other orders, renames the assistant, strips, merges the system message into the first user's
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\\n\\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\\n' }}"
    "{{ (first if loop.first else '') + (m['content'] | trim) + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)

INST = (  # no prompt of its own: the header of an answer is the end of the question
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
    "{% else %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% endif %}{% endfor %}"
)

END_BY_NEXT = (  # the end of a turn is written by the one that follows
    "{% for m in messages %}{% if not loop.first %}{{ '<|eom|>' }}{% endif %}"
    "{{ '<|' + m['role'] + '|>' + m['content'] }}{% endfor %}{{ '<|eom|>' }}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

END_BY_NEXT_HEADER = (  # and nothing at all after the last
    "{% for m in messages %}{% if m['role'] == 'user' %}{% if not loop.first %}{{ '<|eom|>' }}{% endif %}{{ '<U>' }}"
    "{% else %}{{ '<A>' }}{% endif %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}{{ '<A>' }}{% endif %}"
)

PROMPT_IN_LOOP = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + eos_token + '\\n' }}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}{% endfor %}"
)

ALWAYS_A_PROMPT = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] + '<end>' }}{% endfor %}{{ '<assistant>' }}"
)

BY_NUMBER = (
    "{% for i in range(messages | length) %}{% set m = messages[i] %}"
    "{{ '<' + m['role'] + '>' + m['content'] + '<end>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)

IN_PAIRS = (  # no loop over messages: questions and answers are set side by side
    "{% for i in range(0, (messages | length) // 2 * 2, 2) %}"
    "{{ 'Q: ' + messages[i]['content'] + '\\nA: ' + messages[i + 1]['content'] + '</s>\\n' }}{% endfor %}"
)

COLLECTED = (  # the text is collected in a variable first
    "{% set ns = namespace(text='') %}{% for m in messages %}"
    "{% set ns.text = ns.text + '<' + m['role'] + '>' + m['content'] + '<end>' %}{% endfor %}{{ ns.text }}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)

BY_MACRO = (
    "{% macro turn(m) %}{{ '<' + m['role'] + '>' + m['content'] + '<end>' }}{% endmacro %}"
    "{% for m in messages %}{{ turn(m) }}{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)

DATED = "{{ strftime_now('%d %b %Y') + '\\n' }}" + CHATML

MARKED = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' }}{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] + '<end>' }}{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)

PARTS = (  # contents are lists of parts, as for models that also see images
    "{% for m in messages %}{{ '<' + m['role'] + '>' }}{% for part in m['content'] %}"
    "{{ part['text'] }}{% endfor %}{{ '<end>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)

EXPECTED: dict[str, tuple[str, list[str]]] = {
    "chatml": (CHATML, ["A1<|im_end|>\n", "A2<|im_end|>\n", "A3<|im_end|>\n"]),
    "thinking block on the last turn": (
        THINKING_LAST,
        ["A1<|im_end|>\n", "A2<|im_end|>\n", "\n</think>\n\nA3<|im_end|>\n"],
    ),
    "prompt differs from header": (DROPS_THOUGHTS, ["A1</s>", "A2</s>", "A3</s>"]),
    "end of text at the close": (END_AT_CLOSE, ["A1<|end|>\n", "A2<|end|>\n", "A3<|end|>\n</s>"]),
    "channels": (
        CHANNELS,
        [
            "<|channel|>final<|message|>A1<|end|>",
            "<|channel|>final<|message|>A2<|end|>",
            "<|channel|>final<|message|>A3<|return|>",
        ],
    ),
    "roles alternate": (ALTERNATING, ["A1<end_of_turn>\n", "A2<end_of_turn>\n", "A3<end_of_turn>\n"]),
    "no prompt": (INST, [" A1</s>", " A2</s>", " A3</s>"]),
    "end by the next": (END_BY_NEXT, ["A1<|eom|>", "A2<|eom|>", "A3<|eom|>"]),
    "end by the next header": (END_BY_NEXT_HEADER, ["A1<|eom|>", "A2<|eom|>", "A3"]),
    "prompt in the loop": (PROMPT_IN_LOOP, ["A1</s>\n", "A2</s>\n", "A3</s>\n"]),
    "always a prompt": (ALWAYS_A_PROMPT, ["A1<end>", "A2<end>", "A3<end>"]),
    "by number": (BY_NUMBER, ["A1<end>", "A2<end>", "A3<end>"]),
    "in pairs": (IN_PAIRS, ["A1</s>\n", "A2</s>\n", "A3</s>\n"]),
    "collected": (COLLECTED, ["A1<end>", "A2<end>", "A3<end>"]),
    "by macro": (BY_MACRO, ["A1<end>", "A2<end>", "A3<end>"]),
    "dated": (DATED, ["A1<|im_end|>\n", "A2<|im_end|>\n", "A3<|im_end|>\n"]),
    "marked": (MARKED, ["A1<end>", "A2<end>", "A3<end>"]),
    "parts": (PARTS, ["A1<end>", "A2<end>", "A3<end>"]),
}
"""By name: the template, and what is learned of three answers A1, A2, A3."""
