"""Chat templates that use what the templates of widespread models use, each with the text it makes of CHAT.

They are shortened retellings, not the models' own templates.
"""

SYSTEM = {"role": "system", "content": "  Be brief & kind.\n"}
QUESTION = {"role": "user", "content": "Is 1 < 2?"}
THOUGHT = {"role": "assistant", "content": "<think>\nSurely.\n</think>\n\nYes, 1 < 2 & 'so' on."}
ANSWER = {"role": "assistant", "content": "Yes, 1 < 2 & 'so' on."}
THANKS = {"role": "user", "content": 'Thank you, "très" kind 🙂\n'}
CHAT = [SYSTEM, QUESTION, ANSWER, THANKS]

# As in Llama 3: the beginning spelled out, names that may be undefined, slices, JSON of what is no string.
LLAMA_3 = """\
{{- bos_token }}
{%- if not today is defined %}
    {%- if strftime_now is defined %}
        {%- set today = strftime_now("%Y") | length %}
    {%- else %}
        {%- set today = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Today: " ~ today ~ "\\n" + system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
        {%- if message.content is string %}
            {{- message['content'] | trim + '<|eot_id|>' }}
        {%- else %}
            {{- message.content | tojson }}
        {%- endif %}
    {%- elif message.tool_calls | length != 1 %}
        {{- raise_exception("one call at a time") }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
LLAMA_3_TEXT = (
    "<|start_header_id|>system<|end_header_id|>\n\nToday: 4\nBe brief & kind.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nIs 1 < 2?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nYes, 1 < 2 & 'so' on.<|eot_id|>"
    '<|start_header_id|>user<|end_header_id|>\n\nThank you, "très" kind 🙂<|eot_id|>'
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)

# As in Qwen2.5: a system message of its own where none is given, tools, loop.first and loop.last.
QWEN_2 = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}
        {{- tool | tojson }}
    {%- endfor %}
{%- elif messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and loop.first) or
           (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- message.content }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
QWEN_2_TEXT = (
    "<|im_start|>system\n  Be brief & kind.\n<|im_end|>\n"
    "<|im_start|>user\nIs 1 < 2?<|im_end|>\n"
    "<|im_start|>assistant\nYes, 1 < 2 & 'so' on.<|im_end|>\n"
    '<|im_start|>user\nThank you, "très" kind 🙂\n<|im_end|>\n'
    "<|im_start|>assistant\n"
)

# As in Qwen3: a namespace, messages backwards, thoughts cut out of old answers, a switch often undefined.
QWEN_3 = """\
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and
           not (message.content.startswith('<tool_response>') and
                message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning_content =
                content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or reasoning_content) %}
            {%- set content = '<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content %}
        {%- endif %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

# What others use: loop controls, macros, JSON with options, tests and filters of dictionaries and lists.
MISCELLANY = """\
{%- macro turn(role, text) -%}
    [{{ role | upper }}] {{ text | trim }}
{% endmacro -%}
{%- for message in messages -%}
    {%- if '<think>' in message.content -%}{%- continue -%}{%- endif -%}
    {%- if loop.index > 4 -%}{%- break -%}{%- endif -%}
    {{- turn(message['role'], message.content) -}}
    {{- message | tojson }} {{ message.content | tojson(indent=2) }}
{% endfor -%}
{%- for key, value in messages[0].items() -%}
    {{- key ~ "=" ~ value | length }}{{ ", " if not loop.last }}
{%- endfor %}
{{ messages | map(attribute='role') | join('/') }}
{{ (messages | selectattr('role', 'equalto', 'user') | list | length) is odd }}
{{ messages[-1].content is defined and messages[-1].name is undefined }} {{ messages[0] is mapping }}
{{- '\\n' ~ {'z': "é<&>'", 'a': [1, 2.5, true, none]} | tojson }}
"""
MISCELLANY_TEXT = """\
[SYSTEM] Be brief & kind.
{"role": "system", "content": "  Be brief & kind.\\n"} "  Be brief & kind.\\n"
[USER] Is 1 < 2?
{"role": "user", "content": "Is 1 < 2?"} "Is 1 < 2?"
[ASSISTANT] Yes, 1 < 2 & 'so' on.
{"role": "assistant", "content": "Yes, 1 < 2 & 'so' on."} "Yes, 1 < 2 & 'so' on."
[USER] Thank you, "très" kind 🙂
{"role": "user", "content": "Thank you, \\"très\\" kind 🙂\\n"} "Thank you, \\"très\\" kind 🙂\\n"
role=6, content=19system/user/assistant/user
False
True True
{"z": "é<&>'", "a": [1, 2.5, true, null]}"""

QWEN_3_TEXT = QWEN_2_TEXT  # of this conversation
TEMPLATES = {
    "Llama 3": (LLAMA_3, LLAMA_3_TEXT),
    "Qwen2.5": (QWEN_2, QWEN_2_TEXT),
    "Qwen3": (QWEN_3, QWEN_3_TEXT),
    "miscellany": (MISCELLANY, MISCELLANY_TEXT),
}
