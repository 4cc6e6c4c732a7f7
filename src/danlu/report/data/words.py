"""Every text of the page in both languages."""

from __future__ import annotations

from danlu.report.words import Language, say

WORDS: dict[str, tuple[str, str]] = {
    "data_report": ("Data report", "数据报告"),
    "at_a_glance": ("At a glance", "概览"),
    "flow": ("What flows through", "流向"),
    "by_step": ("Step by step", "逐步"),
    "by_source": ("By source and language", "按来源和语言"),
    "thresholds": ("Thresholds", "阈值"),
    "new_settings": ("Settings with these thresholds", "移动后的设置"),
    "dropped_examples": ("What was dropped", "被去掉的记录"),
    "twins": ("Near-duplicates", "近似重复"),
    "frequent": ("Lines that stood in many records", "出现在许多记录中的行"),
    "contamination": ("Test items found", "发现的测试题"),
    "personal": ("Personal data", "个人信息"),
    "changed_examples": ("What was changed", "被修改的内容"),
    "not_read": ("Not read, or mended on reading", "未读入或读入时修复"),
    "rows_read": ("Rows read", "读入行数"),
    "rows_broken": ("Broken rows", "坏行"),
    "documents_out": ("Records kept", "保留记录"),
    "characters_out": ("Characters kept", "保留字符"),
    "tokens_out": ("Tokens kept", "保留词元"),
    "records": ("records", "记录"),
    "characters": ("characters", "字符"),
    "characters_in": ("Characters", "字符"),
    "step": ("Step", "步骤"),
    "looked_at": ("Looked at", "检查"),
    "changed": ("Changed", "修改"),
    "dropped": ("Dropped", "去掉"),
    "why": ("Why", "原因"),
    "kept": ("kept", "保留"),
    "kept_share": ("Kept", "保留比例"),
    "seconds": ("Core seconds", "核秒"),
    "source": ("Source", "来源"),
    "language": ("Language", "语言"),
    "in": ("Records", "记录"),
    "out": ("Kept", "保留"),
    "all": ("all", "全部"),
    "at_least": ("at least", "不低于"),
    "at_most": ("at most", "不高于"),
    "no_bound": ("no bound", "不限"),
    "reset": ("Back to how it ran", "恢复当前设置"),
    "copy": ("Copy", "复制"),
    "save": ("Save as YAML", "存为 YAML"),
    "copied": ("copied", "已复制"),
    "just_kept": ("Just kept", "刚好保留"),
    "just_dropped": ("Just dropped", "刚好去掉"),
    "none_near": ("no example", "没有例子"),
    "item": ("Test item", "测试题"),
    "set": ("Test set", "测试集"),
    "matches": ("Records with a match", "有匹配的记录"),
    "dropped_records": ("Dropped", "去掉"),
    "share": ("Share of the item", "占题目比例"),
    "passage": ("Passage", "片段"),
    "line": ("Line", "行"),
    "in_records": ("In records", "所在记录数"),
    "kind": ("Kind", "类别"),
    "records_with": ("Records with it", "含有的记录"),
    "replaced": ("Replaced", "替换次数"),
    "reason": ("Reason", "原因"),
    "count": ("Count", "数量"),
    "where": ("Where", "位置"),
    "origin": ("Origin", "出处"),
    "other_measures": ("Measured, without a threshold", "只测量、没有阈值的列"),
    "how_flow": (
        "Heights are characters. What a step takes away falls down; a step that only changes text narrows the band.",
        "高度为字符数。每步去掉的部分向下流出；只修改文本的步骤会使带子变窄。",
    ),
    "how_broken": (
        "Broken rows could not be read or hold no record of a known form; the section “Not read” says why and where.",
        "坏行无法读取，或者不是已知格式的记录；原因和位置见“未读入或读入时修复”一节。",
    ),
    "how_matrix": (
        "The share of each row's records that a step drops.",
        "每一步去掉的记录占该行记录的比例。",
    ),
    "how_thresholds": (
        "Move a threshold: the counts are exact for all records that come to the step, each threshold by itself. "
        "Nothing is measured again when you clean with the settings below.",
        "移动阈值：计数对到达该步骤的全部记录都是精确的，每个阈值单独计算。用下面的设置再次清洗时，不会重新测量。",
    ),
    "how_settings": (
        "Put these steps into the `clean:` section of the recipe and run it again.",
        "把这些步骤放进配方的 `clean:` 一节，再运行一次。",
    ),
    "how_examples": (
        "Chosen by a hash of where they come from, so the page is the same every time. `danlu explain RUN ORIGIN` "
        "tells the whole life of a record.",
        "按出处的哈希选取，每次生成都相同。`danlu explain RUN 出处` 讲述一条记录的全过程。",
    ),
    "how_personal": (
        "Covered here but for the first character. Once the corpus is searched for personal data, it is covered in "
        "all examples of this page.",
        "此处除首字符外均已遮盖。只要清洗时查找了个人信息，本页所有例子里的个人信息都会遮盖。",
    ),
    "how_twins": (
        "Red went with the dropped record, green stands in the kept one.",
        "红色只在去掉的记录里，绿色只在保留的记录里。",
    ),
    "removed_times": ("removed in {n} records", "在 {n} 条记录中去除"),
}
"""{key: (English, Chinese)}; what is not here is said as on other pages."""


def tell(key: str, language: Language) -> str:
    """The text of a key."""
    return WORDS[key][language == "zh"] if key in WORDS else say(key, language)
