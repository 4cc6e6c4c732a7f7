"""What `--dry-run` says, in both languages."""

from __future__ import annotations

from typing import Literal

WORDS: dict[Literal["en", "zh"], dict[str, str]] = {
    "en": {
        "stage": "stage",
        "state": "state",
        "input": "input",
        "unchanged": "unchanged",
        "unfinished": "unfinished",
        "parked": "parked",
        "stale": "stale",
        "new": "new",
        "comma": ", ",
        "files": "{count} files, {size}B",
        "takes": "What training takes",
        "sees": "What training sees",
        "tokens": "tokens",
        "parameters": "parameters",
        "memory": "memory",
        "checkpoints": "checkpoints",
        "time": "time",
        "source": "source",
        "share": "share",
        "epochs": "epochs",
        "seen": "tokens seen",
        "not there": "not there yet",
        "how": "Times assume {share:.0%} of the {rate:.0f} GFLOP/s that a matrix product reached here just now; tokens "
        "marked ≈ are the text's size, as the files' sizes let expect it, over {bytes} bytes, or what `steps` steps "
        "have room for; memory is that of a step on one device here. `danlu doctor` says it part by part, for other "
        "GPUs too (--gpu), and measures the heaviest batch.",
    },
    "zh": {
        "stage": "阶段",
        "state": "状态",
        "input": "输入",
        "unchanged": "没有变化",
        "unfinished": "未完成",
        "parked": "可恢复",
        "stale": "已过时",
        "new": "新的",
        "comma": "、",
        "files": "{count} 个文件，{size}B",
        "takes": "训练所需",
        "sees": "训练所见",
        "tokens": "词元",
        "parameters": "参数",
        "memory": "内存",
        "checkpoints": "检查点",
        "time": "用时",
        "source": "来源",
        "share": "占比",
        "epochs": "遍数",
        "seen": "所见词元",
        "not there": "尚不存在",
        "how": "用时按刚才在本机测得的矩阵乘法速度 {rate:.0f} GFLOP/s 的 {share:.0%} 估计；标 ≈ 的词元数由文件大小估出"
        "的文本字节数除以 {bytes} 得到，或为 `steps` 步所能容纳；内存是本机单个设备上一步所需。`danlu doctor` 会逐项"
        "说明，也可针对其他 GPU（--gpu），并实测最重的批。",
    },
}
