"""Why records were dropped, cut, mended or not read, in Chinese: the code counts reasons under their English words."""

from __future__ import annotations

import re

from danlu.report.words import Language

STEPS: dict[str, str] = {
    "normalise": "规范化",
    "length": "长度",
    "language": "语言",
    "exact_dedup": "完全去重",
    "html": "去 HTML",
    "links": "去链接",
    "markdown": "去 Markdown 杂项",
    "copyright": "去版权声明",
    "repeated_sentences": "去重复句",
    "long_words": "去超长词",
    "width": "全角转半角",
    "simplified": "繁转简",
    "characters": "字符构成",
    "lines": "行",
    "words": "词",
    "neighbours": "相邻字母与汉字",
    "repetition": "重复片段",
    "keywords": "关键词",
    "classifier": "分类器",
    "tokens": "词元数",
    "perplexity": "困惑度",
    "reward": "奖励分",
    "privacy": "个人信息",
    "near_dedup": "近似去重",
    "line_dedup": "跨文档重复行",
    "decontaminate": "测试集去污染",
    "smooth": "口语顺滑",
    "history": "历史截断",
    "history_tokens": "历史截断（词元）",
    "turns": "重复轮次",
    "tags": "用户标签",
    "tags_scored": "用户标签（分类器）",
    "unsuitable": "不当内容",
    "unsuitable_scored": "不当内容（分类器）",
}
"""What the cleaning steps are called."""

MEASURES: dict[str, str] = {
    "characters": "重复字符片段占比",
    "alphanumeric": "字母数字占比",
    "punctuation": "标点占比",
    "symbols": "符号占比",
    "digits": "数字占比",
    "special": "特殊字符占比",
    "han": "汉字占比",
    "latin": "常见字母对占比",
    "count": "数量",
    "average": "平均行长",
    "longest": "最长行",
    "duplicate lines": "重复行占比",
    "duplicate sentences": "重复句占比",
    "ellipses": "省略号行占比",
    "bullets": "项目符号行占比",
    "average length": "平均词长",
    "function words": "虚词占比",
    "words": "重复词片段占比",
    "density": "每千字命中",
    "characters per token": "每词元字符数",
    "bits per byte": "每字节比特数",
    "reward": "奖励",
    "margin": "奖励差",
    "text left": "剩余文本占比",
    "left": "剩余文本占比",
    "share": "测试题占比",
    "confidence": "语言置信度",
    "size": "字符数",
    "worst": "最高分",
    "score": "分类器得分",
    "cut": "截去消息数",
    "repeated": "重复轮数",
    "removed": "去除处数",
    "mobile": "手机号",
    "phone": "电话",
    "email": "邮箱",
    "id card": "身份证号",
    "bank card": "银行卡号",
    "ip": "IP 地址",
    "address": "地址",
    "name": "姓名",
    "fillers": "口头语",
    "repeats": "重复字词",
    "slips": "口误",
}
"""What the steps measure, blanks for underscores."""

_OWN_MEASURES = {
    ("length", "characters"): "字符数",
    ("neighbours", "han"): "常见汉字对占比",
    ("lines", "count"): "行数",
    ("words", "count"): "词数",
    ("keywords", "count"): "命中数",
    ("tokens", "count"): "词元数",
}
"""Where a step means something else by a name."""

KINDS = {"document": "文档", "conversation": "对话", "preference": "偏好"}
LANGUAGES = {"zh": "中文", "en": "英文", "mixed": "中英混合", "other": "其他语言", "": "语言未测"}

REASONS: dict[str, str] = {
    # cleaning steps
    "too short": "过短",
    "too long": "过长",
    "duplicate": "重复",
    "near duplicate": "近似重复",
    "test item": "含测试题",
    "repeated turns": "轮次重复",
    "unsuitable words": "含不当词",
    "unsuitable": "内容不当",
    # records that cannot be used
    "empty text": "文本为空",
    "conversation without an answer": "对话没有回答",
    "preference without a question before its answers": "偏好的回答前没有提问",
    "answer that is no assistant's": "回答不是助手说的",
    "chosen equals rejected": "优选与拒绝相同",
    "two system messages": "两条系统消息",
    "system message after the start": "系统消息不在开头",
    "tool result without a call": "没有调用的工具结果",
    "empty content": "内容为空",
    "two answers in a row": "连续两个回答",
    "unknown role": "未知角色",
    "content that is not text": "内容不是文本",
    "tool call without a name": "工具调用没有名字",
    "tools that are no list of objects": "工具不是对象列表",
    "message without a role": "消息没有角色",
    "no answer is better than another": "回答不分优劣",
    "unknown schema": "未知格式",
    "history that is no list of question and answer": "历史不是问答列表",
    # files that cannot be read
    "not UTF-8": "不是 UTF-8",
    "cut-off file": "文件被截断",
    "damaged file": "文件损坏",
    "column names that come twice": "列名重复",
    "not an object": "不是对象",
    "empty file": "空文件",
    "document too long": "文档过长",
    "line too long": "行过长",
    "row too long": "行数据过长",
    "only NUL bytes": "全是 NUL 字节",
    "broken CSV": "CSV 有误",
    "cut-off last line": "末行被截断",
    "damaged row group": "行组损坏",
    "broken JSON": "JSON 有误",
    "rest of the file lost": "文件其余部分无法读取",
    "damaged archive": "压缩包损坏",
    "damaged chapter": "章节损坏",
    "damaged page": "页面损坏",
    "damaged record": "记录损坏",
    "cut-off record": "记录被截断",
    "chapter too long": "章节过长",
    "missing chapter": "缺少章节",
    "encrypted": "已加密",
    "encrypted chapter": "章节已加密",
    "wrong encoding": "编码不符",
    "no text": "没有文本",
    "no pages": "没有页面",
    "nested too deep": "嵌套过深",
    # what is left out or mended on reading
    "named in .gitignore": "在 .gitignore 之列",
    "other people's or generated code": "第三方或生成的代码",
    "symbolic link": "符号链接",
    "a page without text of its own": "没有自身文本的页面",
    "LaTeX that only sets things up": "只做设置的 LaTeX",
    "a book without a list of chapters": "没有章节目录的书",
    "labelled as a bad answer": "标为坏回答",
    "file of another format": "其他格式的文件",
    "turn without an answer cut off the end": "截去末尾没有回答的一轮",
    "answer without a question cut off the start": "截去开头没有提问的回答",
    "empty system prompt left out": "省去空的系统提示",
    # packing and cutting to the length
    "nothing in it is in the loss": "没有内容计入损失",
    "oldest turns left out": "省去最早的轮次",
    "turns in several windows": "各轮分到多个窗口",
    "a question cut to max_source_length": "问题截到 max_source_length",
    "an answer cut to max_target_length, its stop token not trained": "回答截到 max_target_length，不训练其停止词元",
    "an answer labelled by itself is no pair": "单条带标签的回答不成对",
    "no other answer beside this one, and KTO compares with answers to other prompts": "旁边没有别的回答，而 KTO "
    "要与其他提示的回答比较",
    "prompt cut": "提示被截断",
    "answer cut, its stop token not trained": "回答被截断，不训练其停止词元",
    "a single turn is longer than the window": "单轮就超过窗口长度",
    "the window has no room for markup, system prompt and answer": "窗口放不下标记、系统提示和回答",
    "tokens differ from those of the whole text": "词元与整段编码不同",
    "special-token text in a message, kept as text": "消息中有特殊词元的文本，按文本保留",
    "too short to check": "太短，无法检查",
    "items": "题目",
    # texts with labels, for a classifier
    "examples": "样例",
    "several labels": "有多个标签",
    "same text": "相同的文本",
    "same text, other label": "文本相同而标签不同",
}
"""Reasons that are always the same words."""

PREFIXES = {
    "bad": "坏行",
    "left out": "省去",
    "mended": "修复",
    "cut": "截断",
    "not encoded": "未编码",
    "dropped": "丢弃",
}
"""What stands before a colon, beside the names of steps."""

_PATTERNS: list[tuple[re.Pattern[str], str]] = [
    (re.compile(pattern), wording)
    for pattern, wording in (
        (r"language (?P<language>\w+)", "语言为{language}"),
        (r"(?P<measure>.+) too low", "{measure}过低"),
        (r"(?P<measure>.+) too high", "{measure}过高"),
        (r"no (?P<kind>document|conversation|preference) in the row", "该行没有{kind}"),
        (r"no value for (?P<plain>.+)", "没有 {plain} 列的值"),
        (r"no label in (?P<plain>.+)", "{plain} 列没有标签"),
        (r"longer than (?P<plain>\S+) characters", "超过 {plain} 个字符"),
        (r"more than (?P<plain>\S+) of a label", "同一标签超过 {plain} 条"),
        (r"not (?P<plain>.+)", "不满足 {plain}"),
        (r"two (?P<role>\w+) messages in a row joined", "合并连续的{role}消息"),
        (r"holds a (?P<kind>\w+), no (?P<other>\w+)", "是{kind}，不是{other}"),
        (r"(?P<plain>.+) that is not JSON", "{plain} 不是 JSON"),
        (r"(?P<plain>\S+) too long", "{plain} 过长"),
    )
]
ROLES = {"system": "系统", "user": "用户", "assistant": "助手", "tool": "工具"}


def reason_in(reason: str, language: Language, op: str = "") -> str:
    """A reason in the page's language, given by the step `op` or by the one named before it; words that nobody
    foresaw, such as a template's own error, stay as they are."""
    return reason if language == "en" else _chinese(reason, op)


def step_title(called: str, language: Language) -> str:
    """What a step is called where there is little room."""
    op, colon, name = called.partition(":")
    return f"{STEPS.get(op, op)}{colon}{name}" if language == "zh" else called


def step_name(called: str, language: Language) -> str:
    """What a step is called, OP or OP:NAME; its name in settings comes along in Chinese."""
    op = called.partition(":")[0]
    return f"{step_title(called, language)} {op}" if language == "zh" and op in STEPS else called


def measure_name(op: str, column: str, language: Language) -> str:
    """What a value is called that a step measures."""
    op, plain = op.partition(":")[0], column.replace("_", " ")
    return _OWN_MEASURES.get((op, plain)) or MEASURES.get(plain, plain) if language == "zh" else plain


def language_name(tongue: str, language: Language) -> str:
    """zh, en, mixed, other or "" (not measured) as a word."""
    return LANGUAGES.get(tongue, tongue) if language == "zh" else tongue or "not measured"


def _chinese(reason: str, op: str) -> str:
    if reason in REASONS:
        return REASONS[reason]
    head, colon, rest = reason.partition(": ")
    named, _, name = head.partition(":")
    if colon and (named in STEPS or head in PREFIXES):
        given = f"{STEPS[named]}{'：' if name else ''}{name}" if named in STEPS else PREFIXES[head]
        return f"{given}：{_chinese(rest, head)}"
    for pattern, wording in _PATTERNS:
        if found := pattern.fullmatch(reason):
            return wording.format(**{sort: _word(sort, value, op) for sort, value in found.groupdict().items()})
    return reason


def _word(sort: str, value: str, op: str) -> str:
    if sort == "plain":
        return value
    if sort == "measure":
        return measure_name(op, value, "zh")
    return {"language": LANGUAGES, "role": ROLES}.get(sort, KINDS).get(value, value)
