"""What is told of a single row or value beside its reason, in Chinese: the code writes it in English."""

from __future__ import annotations

import re
from typing import Any

from danlu.report.reasons import REASONS, ROLES
from danlu.report.words import Language

VALUES = {
    "twin": "对应记录",
    "source": "来源",
    "jaccard": "Jaccard 相似度",
    "test": "测试集",
    "item": "题目",
    "passage": "片段",
    "matches": "匹配数",
    "share": "占比",
    "han": "汉字占比",
    "detected": "检测为",
    "value": "值",
    "words": "词",
}
"""The parts of a value for which a record was dropped."""
_TYPES = {"list": "列表", "dict": "对象", "str": "字符串", "int": "整数", "float": "小数", "bool": "布尔值"}
_TYPES |= {"NoneType": "空值"}

_PLACE = re.compile(r"(?P<place>.*?:\d+|\S+) \((?P<detail>.*)\)", re.DOTALL)
_PATTERNS: list[tuple[re.Pattern[str], str]] = [
    (re.compile(pattern, re.DOTALL), wording)
    for pattern, wording in (
        (r"byte (?P<a>\d+) is (?P<b>0x\w+)", "偏移 {a} 处的字节是 {b}"),
        (r"(?P<one>byte .+); this looks like UTF-16: save it as UTF-8", "{one}；像是 UTF-16，请另存为 UTF-8"),
        (
            r"(?P<one>byte .+); in GB18030 it reads “(?P<b>.*)”: save it as UTF-8",
            "{one}；按 GB18030 读为“{b}”，请另存为 UTF-8",
        ),
        (r"bytes or escapes that are no characters", "有不成字符的字节或转义"),
        (r"the (?P<a>gzip|zstd) stream has no end", "{a} 数据没有结尾"),
        (r"the array has no end", "数组没有结尾"),
        (r"the last item has no end", "最后一项没有结尾"),
        (r"an item longer than (?P<a>\d+) MB, or one without an end", "有一项超过 {a} MB，或者没有结尾"),
        (r"the items do not stand on lines of their own", "各项没有各占一行"),
        (r"(?P<a>[\d,]+), as a crash leaves them", "{a} 个，常见于崩溃之后"),
        (r"more than (?P<a>[\d,]+) elements in one another", "嵌套超过 {a} 层"),
        (r"more than max_row_bytes, (?P<a>[\d.e+]+) MB(?P<b>.*)", "超过 max_row_bytes，{a} MB{b}"),
        (r"(?P<a>\d+) chapters, none with text", "{a} 章，都没有文本"),
        (r"(?P<a>\d+) pages, none with text: a scan\?", "{a} 页，都没有文本，可能是扫描件"),
        (r"it opens with a password only", "需要密码才能打开"),
        (r"zip: it has no end", "zip：没有结尾"),
        (r"zip: its directory is larger than that of any book", "zip：目录比任何书的都大"),
        (r"an archive without a response in it", "归档中没有响应"),
        (r"its rest is lost: (?P<a>.*)", "其余部分丢失：{a}"),
        (r"(?P<a>\d+) bytes are missing", "缺 {a} 字节"),
        (r"(?P<a>\d+) rows lost: (?P<b>.*)", "丢失 {a} 行：{b}"),
        (r"(?P<a>\d+) cells under (?P<b>\d+) column names", "{b} 个列名下有 {a} 个单元格"),
        (r"(?P<a>[^,]+), (?P<b>[^,]+), does not fit", "{a}（{b}）不符"),
        (r"a (?P<role>system|user|assistant|tool) message", "一条{role}消息"),
        (r"a (?P<type>\w+) in a (?P<role>\w+) message", "{role}消息中是{type}"),
        (r"a part of type (?P<a>\S+)", "类型为 {a} 的部分"),
        (r"a part without a type", "没有类型的部分"),
        (r"a (?P<a>\S+) part without text", "没有文本的 {a} 部分"),
        (r"a node of the tree without `role`", "树中有节点没有 `role`"),
        (r"a turn without `from`", "有一轮没有 `from`"),
        (r"a turn without `human` and `assistant`", "有一轮没有 `human` 和 `assistant`"),
        (r"(?P<a>\d+) scored answers", "{a} 个打了分的回答"),
        (r"read by the adapter (?P<a>\S+)", "由适配器 {a} 读取"),
        (r"fields: (?P<a>.*?); nearest: (?P<nearest>.*)", "字段：{a}；最接近的格式：{nearest}"),
        (r"fields: (?P<a>.*?); (?P<b>\S+) takes: (?P<c>.*)", "字段：{a}；{b} 需要 {c}"),
        (r"(?P<json>.+?)(?: at)? at character (?P<a>\d+)", "第 {a} 个字符处{json}"),
        (r"(?P<a>\S+) is a (?P<type>\w+)", "{a} 是{type}"),
        (r"a (?P<type>\w+)", "{type}"),
    )
]
_JSON = {
    "Unterminated string starting": "开始的字符串没有结束",
    "Expecting value": "缺少值",
    "Expecting property name enclosed in double quotes": "缺少双引号括起的键名",
    "Illegal trailing comma before end of object": "有多余的逗号",
    "Illegal trailing comma before end of array": "有多余的逗号",
    "Expecting ',' delimiter": "缺少逗号",
    "Expecting ':' delimiter": "缺少冒号",
    "Extra data": "有多余的数据",
    "Invalid control character": "有非法控制字符",
    "Invalid \\escape": "有非法转义",
    "Invalid \\uXXXX escape": "有非法的 \\uXXXX 转义",
}


def value_name(name: str, language: Language) -> str:
    """What a part of a value is called."""
    return VALUES.get(name, name) if language == "zh" else name


def place_in(place: str, language: Language) -> str:
    """Lines of FILE:LINE (DETAIL) in the page's language; what nobody foresaw, such as a library's words, stays."""
    return "\n".join(map(_place, place.split("\n"))) if language == "zh" else place


def _place(place: str) -> str:
    found = _PLACE.fullmatch(place)
    return f"{found['place']}（{_chinese(found['detail'])}）" if found else place


def _chinese(detail: str) -> str:
    if detail in REASONS:
        return REASONS[detail]
    for pattern, wording in _PATTERNS:
        if found := pattern.fullmatch(detail):
            return wording.format(**{sort: _word(sort, value) for sort, value in found.groupdict().items()})
    return detail


def _word(sort: str, value: str) -> Any:
    if sort == "one":
        return _chinese(value)
    if sort == "nearest":
        return "；".join(re.sub(r"^(\S+) takes ", r"\1（需要 ", one) + "）" for one in value.split("; "))
    return {"role": ROLES, "type": _TYPES, "json": _JSON}.get(sort, {}).get(value, value)
