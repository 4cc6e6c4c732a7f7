"""What the terminal chat says, in English and Chinese."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Words:
    """Texts of one language; names in braces are filled in."""

    welcome: str
    help: str
    raw_on: str
    raw_off: str
    no_template: str
    cleared: str
    system_set: str
    system_unset: str
    unknown: str
    stopped: str
    dropped: str
    too_long: str
    backslash_n: str
    leave: str


WORDS = {
    "en": Words(
        welcome="Talking with {name}. /help tells what can be typed, /exit leaves.",
        help="""/clear             forget the conversation
/system TEXT       set the system prompt; without TEXT, remove it
/set NAME=VALUE    change sampling (temperature, top_p, max_tokens, seed, ...); without NAME=VALUE, show it
/raw               switch between chat and raw: raw continues your text as it is, for base models
/exit              leave
A line that ends in \\ goes on in the next one. Ctrl-C stops an answer.""",
        raw_on="Raw: your text is continued as it is, and nothing is remembered.",
        raw_off="Chat: your text is a message, and the conversation is remembered.",
        no_template="This model has no chat template, so its texts are continued raw.",
        cleared="Forgotten.",
        system_set="System prompt set.",
        system_unset="System prompt removed.",
        unknown="There is no command {command}; /help lists them.",
        stopped="[stopped]",
        dropped="[the {count} oldest turns no longer fit in the window of {window} tokens and were dropped]",
        too_long="That has {tokens} tokens and the window {window}: it was not sent. Shorten it.",
        backslash_n="[you typed \\n as two characters, and so they are sent; for a line break end the line with \\]",
        leave="/exit leaves.",
    ),
    "zh": Words(
        welcome="正在与 {name} 对话。输入 /help 查看命令，/exit 退出。",
        help="""/clear           清空对话
/system 文本     设置系统提示词；不带文本则去掉
/set 名=值       修改采样设置（temperature、top_p、max_tokens、seed 等）；不带参数则显示当前设置
/raw             在对话与续写之间切换：续写模式原样接着写你的文本，适合基座模型
/exit            退出
以 \\ 结尾的一行会接到下一行。Ctrl-C 停止当前回答。""",
        raw_on="续写模式：原样接着写你的文本，不保留历史。",
        raw_off="对话模式：你的文本是一条消息，保留历史。",
        no_template="这个模型没有对话模板，只能续写文本。",
        cleared="已清空。",
        system_set="已设置系统提示词。",
        system_unset="已去掉系统提示词。",
        unknown="没有命令 {command}；/help 列出全部命令。",
        stopped="[已停止]",
        dropped="[最早的 {count} 轮对话放不进 {window} 个词元的窗口，已丢弃]",
        too_long="这段文本有 {tokens} 个词元，窗口是 {window}：没有发送，请缩短。",
        backslash_n="[你输入的 \\n 是两个字符，会原样发送；要换行请用 \\ 结束这一行]",
        leave="输入 /exit 退出。",
    ),
}
