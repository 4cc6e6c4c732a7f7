"""Every text of the report in both languages, and how numbers are written."""

from __future__ import annotations

import math
from typing import Literal

from danlu.report.diagnose import Finding

Language = Literal["en", "zh"]

WORDS: dict[str, tuple[str, str]] = {
    "title": ("Training report", "训练报告"),
    "made": ("made", "生成于"),
    "overview": ("At a glance", "概览"),
    "findings": ("What the curves show", "曲线说明了什么"),
    "stages": ("Stage by stage", "各阶段"),
    "curves": ("Curves", "曲线"),
    "overlay": ("Runs compared", "多次运行对比"),
    "evaluation": ("Evaluation", "评测"),
    "side_by_side": ("The same prompts, every checkpoint", "同一提示，各个检查点"),
    "answers": ("answers", "回答"),
    "looping answers": ("looping answers", "复读回答"),
    "questions": ("questions", "问题"),
    "seen": ("asked in training", "训练中问过"),
    "empty": ("(nothing)", "（无）"),
    "inspection": ("What is in the loss", "哪些内容计入损失"),
    "settings": ("Settings and fingerprints", "设置与指纹"),
    "run": ("Run", "运行"),
    "runs": ("Runs", "运行"),
    "stage": ("Stage", "阶段"),
    "curve": ("Curve", "曲线"),
    "steps": ("steps", "步"),
    "step": ("step", "步"),
    "epochs": ("epochs", "轮数"),
    "tokens": ("tokens", "词元"),
    "tokenizers": ("Tokenizers compared", "分词器对比"),
    "classifier": ("What the classifier is worth", "分类器的效果"),
    "by_label": ("By label", "按标签"),
    "by_label_note": (
        "Texts held out: the likeliest label is taken for the answer, then average precision over all thresholds, and "
        "the threshold that finds most at the precision asked for. In data with another share of the label, precision "
        "differs, recall does not.",
        "在留出文本上：先以概率最高的标签为答案，再给出各阈值上的平均精确率，以及达到所要求精确率时找到最多的阈值。"
        "在该标签占比不同的数据上，精确率会变，召回率不变。",
    ),
    "thresholds": ("By threshold", "按阈值"),
    "mistakes": ("Worst mistakes", "最严重的错误"),
    "label": ("label", "标签"),
    "texts_held_out": ("texts held out", "留出文本"),
    "precision": ("precision", "精确率"),
    "recall": ("recall", "召回率"),
    "f1": ("F1", "F1"),
    "average_precision": ("average precision", "平均精确率"),
    "threshold_for": ("threshold for precision ≥ {precision}", "精确率 ≥ {precision} 的阈值"),
    "score": ("score", "得分"),
    "origin": ("origin", "出处"),
    "found": ("found", "找到"),
    "taken_for": ("taken for", "误判为"),
    "generated": ("generated", "生成文本"),
    "density": ("Bytes per token", "每词元字节数"),
    "density_note": (
        "UTF-8 bytes that a token stands for; more is shorter sequences of the same text.",
        "一个词元平均对应的 UTF-8 字节数；越大，同样的文本序列越短。",
    ),
    "habits": ("How text is split", "文本如何切分"),
    "round_trip": ("Does text come back?", "文本能否还原"),
    "round_trip_note": (
        "✓ decoding gives the very text; ✓ NFC: the same but for its Unicode normal form; ✗ with what comes back.",
        "✓ 解码得到原文；✓ NFC：仅 Unicode 规范形式不同；✗ 后面是解码得到的内容。",
    ),
    "vocabulary": ("Tokens that need a look", "需要留意的词元"),
    "special": ("Special tokens", "特殊词元"),
    "tokenizer": ("Tokenizer", "分词器"),
    "form": ("Form", "类型"),
    "encoder": ("Much text is encoded by", "大量文本的编码库"),
    "text": ("Text", "文本"),
    "texts_same": ("texts that come back", "能还原的文本"),
    "texts_nfc": ("texts that come back as NFC", "以 NFC 还原的文本"),
    "texts_changed": ("texts that change", "改变了的文本"),
    "first_change": ("first change", "第一处改变"),
    "unreachable": ("no text has it", "任何文本都用不到"),
    "across": ("incomplete parts of several characters", "跨字符的残缺字节"),
    "part": ("part of a character", "一个字符的一部分"),
    "long": ("20 characters or more", "20 个字符以上"),
    "repeated": ("one character 8 times or more", "同一字符重复 8 次以上"),
    "folded": ("another token says the same (NFKC)", "与另一词元同义（NFKC）"),
    "digits": ("digits", "数字"),
    "blanks": ("blanks", "空白"),
    "mixed_scripts": ("words and mixed scripts", "词与中英混排"),
    "edge_emoji": ("emoji", "表情符号"),
    "edge_composed": ("composed letters (NFC)", "合成字母（NFC）"),
    "edge_decomposed": ("decomposed letters (NFD)", "分解字母（NFD）"),
    "edge_control": ("control characters", "控制字符"),
    "edge_line_ends": ("line ends of all kinds", "各种换行"),
    "edge_blanks": ("runs of blanks", "连续空白"),
    "edge_astral_han": ("Han beyond the basic plane", "扩展区汉字"),
    "edge_mixed": ("seven scripts", "七种文字混排"),
    "edge_invisible": ("invisible characters", "不可见字符"),
    "edge_full_width": ("full-width forms", "全角字符"),
    "edge_compatibility": ("compatibility characters", "兼容字符"),
    "edge_code": ("code", "代码"),
    "edge_markup": ("the text of special tokens", "特殊词元的文字"),
    "edge_metaspace": ("▁ (U+2581)", "▁（U+2581）"),
    "edge_lone_marks": ("marks without a letter", "无主的附加符号"),
    "time": ("Time", "用时"),
    "parameters": ("Parameters", "参数量"),
    "tokens_trained": ("Tokens trained on", "训练词元"),
    "in": ("In", "输入"),
    "out": ("Out", "输出"),
    "dropped": ("Dropped and mended, by reason", "丢弃与修复（按原因）"),
    "reason": ("Reason", "原因"),
    "count": ("Count", "数量"),
    "nothing_dropped": ("nothing dropped", "无丢弃"),
    "first": ("First", "起始"),
    "last": ("Last", "结束"),
    "lowest": ("Lowest", "最低"),
    "value": ("Value", "值"),
    "loss": ("Loss", "损失"),
    "train": ("training", "训练"),
    "average": ("running average", "滑动平均"),
    "held_out": ("held out", "留出集"),
    "age": ("age", "年龄"),
    "gender": ("gender", "性别"),
    "region": ("region", "地区"),
    "group": ("group", "人群"),
    "held_out_loss": ("Held-out loss", "留出集损失"),
    "learning_rate": ("Learning rate", "学习率"),
    "highest_rate": ("Highest learning rate", "最高学习率"),
    "grad_norm": ("Gradient norm", "梯度范数"),
    "tokens_per_second": ("Tokens per second", "每秒词元"),
    "speed": ("Speed", "速度"),
    "useful_share": ("not padding", "非填充"),
    "mfu": ("MFU, causal rows", "MFU（整行因果）"),
    "mfu_documents": ("MFU, by documents", "MFU（按文档）"),
    "ceiling_share": ("of this machine's products", "占本机矩阵乘上限"),
    "time_data": ("data", "等数据"),
    "time_forward": ("forward", "前向"),
    "time_backward": ("backward", "反向"),
    "time_communication": ("communication", "通信"),
    "time_optimizer": ("optimizer", "优化器"),
    "time_saving": ("saving", "保存"),
    "turn_next": ("Next to turn: ", "下一个可调的设置："),
    "nothing_next": ("No setting stands out as the next to turn.", "没有明显值得再调的设置。"),
    "rewards_accuracy": ("Reward accuracy", "奖励准确率"),
    "rewards_margin": ("Reward margin", "奖励间隔"),
    "rewards": ("Rewards", "奖励"),
    "rewards_chosen": ("chosen", "优选"),
    "rewards_rejected": ("rejected", "拒绝"),
    "preference": ("Held-out pairs", "留出的偏好对"),
    "spread": ("Standard deviation", "标准差"),
    "pairs": ("Pairs", "对数"),
    "margins": ("Margins; paler: the wrong way round", "间隔分布；浅色为判反"),
    "how_preference": (
        "The margin is the reward of the chosen answer less that of the rejected one; ± is one standard error, and "
        "guessing gives 50%.",
        "间隔为优选回答与拒绝回答的奖励之差；± 为一个标准误，瞎猜为 50%。",
    ),
    "bits_per_byte": ("Bits per byte", "每字节比特数"),
    "bits_per_byte_held_out": ("Bits per byte, held out", "留出集每字节比特数"),
    "perplexity": ("Perplexity", "困惑度"),
    "bytes": ("bytes", "字节"),
    "documents": ("documents", "文档"),
    "conversations": ("conversations", "对话"),
    "preferences": ("preferences", "偏好对"),
    "examples": ("examples", "样本"),
    "rows": ("rows", "行"),
    "entries": ("entries", "词表项"),
    "set": ("Set", "集合"),
    "exact_match": ("Exact match", "完全匹配"),
    "repetition": ("Repetition (复读机)", "重复（复读机）"),
    "multiple_choice": ("Multiple choice", "选择题"),
    "overlap": ("Overlap with references", "与参考答案的重合"),
    "accuracy": ("Accuracy", "准确率"),
    "accuracy_characters": ("per character", "按字符归一"),
    "accuracy_bytes": ("per byte", "按字节归一"),
    "macro": ("Subject mean", "学科平均"),
    "chance": ("Chance", "随机水平"),
    "at_chance": ("at chance", "与随机无异"),
    "shots": ("Shots", "示例数"),
    "task": ("Task", "任务"),
    "model": ("Model", "模型"),
    "relation": ("relation", "关系"),
    "sum": ("sum", "算术"),
    "kind": ("Kind", "类别"),
    "language": ("Language", "语言"),
    "all": ("all", "全部"),
    "en": ("English", "英文"),
    "zh": ("Chinese", "中文"),
    "n": ("n", "题数"),
    "loop_rate": ("Loop rate", "复读率"),
    "loop_rate_tokens": ("Loops, on tokens", "复读率（词元）"),
    "loop_rate_characters": ("Loops, on characters", "复读率（字符）"),
    "seq_rep_4": ("seq-rep-4, tokens", "seq-rep-4（词元）"),
    "seq_rep_4_characters": ("seq-rep-4, characters", "seq-rep-4（字符）"),
    "ends": ("Ends by itself", "自行结束"),
    "mean_tokens": ("Mean length, tokens", "平均长度（词元）"),
    "loops": ("loops", "复读"),
    "cut": ("cut at the limit", "到长度上限"),
    "shots_dropped": ("Prompts with shots dropped", "减少示例的题"),
    "signature": ("Signature", "签名"),
    "prompt": ("Prompt", "提示"),
    "reference": ("The data's answer", "数据中的回答"),
    "role": ("Role", "角色"),
    "share": ("Share", "占比"),
    "role_text": ("text", "正文"),
    "role_none": ("markup of the template", "模板标记"),
    "role_system": ("system", "系统"),
    "role_user": ("user", "用户"),
    "role_assistant": ("assistant", "助手"),
    "role_tool": ("tool", "工具"),
    "in_loss": ("in the loss", "计入损失"),
    "bleu": ("BLEU", "BLEU"),
    "rouge1": ("ROUGE-1", "ROUGE-1"),
    "rouge2": ("ROUGE-2", "ROUGE-2"),
    "rougeL": ("ROUGE-L", "ROUGE-L"),
    "log": ("published log", "公开日志"),
    "source": ("Source", "来源"),
    "manifest": ("Manifest", "清单"),
    "chat": ("chat template", "对话模板"),
    "raw": ("raw text", "原始续写"),
    "how_errors": (
        "± is one standard error. “At chance” marks a score that guessing reaches in one of twenty tries or more.",
        "± 为一个标准误。“与随机无异”：瞎猜在二十次中至少有一次能达到该分数。",
    ),
    "how_interval": (
        "± is one standard error; the small figures are the 95% Wilson interval.",
        "± 为一个标准误；小字是 95% Wilson 区间。",
    ),
    "how_loops": (
        "A loop is an ending whose last phrase of at least 2 units stands at least 3 times in a row within "
        "the last 200.",
        "复读：末尾 200 个单位之内，至少 2 个单位的短语在结尾处连续出现至少 3 次。",
    ),
    "how_bits": (
        "Bits per byte compares models with different tokenizers; perplexity is per token and does not.",
        "每字节比特数可以比较分词器不同的模型；困惑度按词元计算，不能。",
    ),
    "how_epochs": ("Dashed lines mark the starts of epochs.", "虚线为每轮的起点。"),
}
"""{key: (English, Chinese)}."""

FINDINGS: dict[str, tuple[str, str]] = {
    "short": (
        "Only {points:.0f} losses were recorded: too few to judge a curve by.",
        "只记录了 {points:.0f} 个损失值，太少，无法判断曲线。",
    ),
    "not_finite": (
        "The loss was not finite at {count:.0f} steps, first at step {step:.0f}: look at the data there, "
        "lower the learning rate, "
        "or use bf16 instead of fp16.",
        "损失在 {count:.0f} 步不是有限数，最早在第 {step:.0f} 步：检查那里的数据，降低学习率，或用 bf16 代替 fp16。",
    ),
    "diverged": (
        "Diverged: from {start:.3g} down to {lowest:.3g} and back to {end:.3g}. Lower the learning rate or "
        "warm up longer.",
        "发散：从 {start:.3g} 降到 {lowest:.3g}，又回到 {end:.3g}。降低学习率，或延长预热。",
    ),
    "steps": (
        "Too hot: the loss falls in steps where epochs begin, by up to {largest:.0%} at once (mean {mean:.1%}"
        "). It has memorised the "
        "earlier epochs. Lower the learning rate or train fewer epochs.",
        "过热：损失在每轮开始处成阶梯下降，一次最多降 {largest:.0%}（平均 {mean:.1%}），说明已背下前几轮的数"
        "据。降低学习率或减少轮数。",
    ),
    "steps_slight": (
        "Slight steps where epochs begin, by up to {largest:.1%} (mean {mean:.1%}): the first signs of "
        "memorising. More epochs would not help.",
        "每轮开始处有轻微阶梯，最多 {largest:.1%}（平均 {mean:.1%}）：刚开始过拟合，再加轮数没有好处。",
    ),
    "overfit": (
        "Overfitting: the held-out loss was lowest at step {step:.0f} ({best:.4g}) and has risen by "
        "{rise:.1%} to {last:.4g} since. Stop there.",
        "过拟合：留出集损失在第 {step:.0f} 步最低（{best:.4g}），之后升高 {rise:.1%}，到 {last:.4g}。应停在那里。",
    ),
    "cold": (
        "Too cold: the loss ends only {gain:.3f} below its start, reward accuracy {accuracy:.0%}, at a "
        "highest learning rate of {rate:.1e}. "
        "Raise it, or train longer.",
        "过冷：损失只比起点低 {gain:.3f}，奖励准确率 {accuracy:.0%}，最高学习率 {rate:.1e}。提高学习率，或训练更久。",
    ),
    "flat": (
        "Flat: over the last third the loss stays at {level:.4g} (change {fall:.2%}) while the learning rate "
        "is still high.",
        "走平：最后三分之一里损失停在 {level:.4g}（变化 {fall:.2%}），而学习率仍然较高。",
    ),
    "spikes": (
        "{count:.0f} spikes of the loss; the largest at step {step:.0f}: {value:.4g}, {times:.2f} times its "
        "surroundings.",
        "损失有 {count:.0f} 个尖峰；最大在第 {step:.0f} 步：{value:.4g}，为周围的 {times:.2f} 倍。",
    ),
    "gradient_spikes": (
        "{count:.0f} spikes of the gradient norm; the largest at step {step:.0f}: {value:.4g}, {times:.1f} "
        "times its surroundings.",
        "梯度范数有 {count:.0f} 个尖峰；最大在第 {step:.0f} 步：{value:.4g}，为周围的 {times:.1f} 倍。",
    ),
    "chosen_falls": (
        "The chosen answers become unlikely too (reward {chosen:.2f}, rejected {rejected:.2f}): much of the "
        "margin is won by "
        "unlearning both.",
        "优选回答也变得不可能（奖励 {chosen:.2f}，拒绝 {rejected:.2f}）：间隔多半是靠同时压低两者得来的。",
    ),
    "unfinished": (
        "Still falling: the last tenth of the steps brought {share:.0%} of the whole fall. A longer run "
        "would go on learning.",
        "仍在下降：最后十分之一的步数贡献了全部下降的 {share:.0%}，训练更久还会继续进步。",
    ),
    "calm": ("Nothing unusual: a smooth curve to its end.", "没有异常：曲线平滑到底。"),
}
"""A sentence for each kind of finding; its values are filled in."""


def say(key: str, language: Language) -> str:
    """The text of a key; a key without words (a stage, a metric of a newer schema) stands for itself."""
    return WORDS[key][language == "zh"] if key in WORDS else key


def comma(language: Language) -> str:
    """What stands between the parts of a list."""
    return "，" if language == "zh" else ", "


def colon(language: Language) -> str:
    """What stands behind a heading in a line."""
    return "：" if language == "zh" else ": "


def tag_label(key: str, language: Language) -> str:
    """The text of a key, or of a tag with its value: region=四川."""
    tag, equals, value = key.partition("=")
    return f"{say(tag, language)}{equals}{value}"


def sentence(finding: Finding, language: Language) -> str:
    """What a finding says."""
    return FINDINGS[finding.kind][language == "zh"].format(**finding.values)


def number(value: float | None) -> str:
    """A number in few characters: 1,234 · 12.3k · 998.8M · 0.0123 · 5e-07; – for none."""
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    if size >= 1e5:
        suffix, scale = next((s, c) for s, c in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)) if size >= c)
        return f"{value / scale:.4g}{suffix}"
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.1f}" if size >= 1e3 else f"{value:.4g}"


def percent(value: float | None) -> str:
    """A share as 12.3%."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.1f}%"


def clock(seconds: float | None, language: Language) -> str:
    """A duration as 42 s, 3 min 05 s, 2 h 10 min."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    s, minutes, hours = ("秒", "分", "小时") if language == "zh" else ("s", "min", "h")
    if whole < 60:
        return f"{seconds:.1f} {s}" if seconds < 10 else f"{whole} {s}"
    if whole < 3600:
        return f"{whole // 60} {minutes} {whole % 60:02d} {s}"
    return f"{whole // 3600} {hours} {whole % 3600 // 60:02d} {minutes}"
