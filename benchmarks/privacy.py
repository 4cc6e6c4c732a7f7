"""How much personal data is found, and what is taken for it wrongly: on made text with known answers, and on real text.

    pip install faker                         names, numbers and addresses that are not from our own dictionaries
    python benchmarks/privacy.py made [OUT.json]
    python benchmarks/privacy.py real FILE_OR_FOLDER ... [show=20]     hits a million characters, some of each shown

Made text: each value in sentences as people write them, in Chinese and English, in its usual layouts; and sentences
full of numbers that are nobody's. Found means: the whole value, as the right kind. Names are counted apart where a word
around them says that they are names, and where nothing does.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from danlu.ledger.counts import Counts
from danlu.text.cleaning.sources import kind_of
from danlu.text.ops.contents import messages_of
from danlu.text.ops.privacy import names
from danlu.text.ops.privacy.cards import id_check_digit
from danlu.text.ops.privacy.redact import find
from danlu.text.records import Document
from danlu.text.settings import CleanSource
from danlu.text.source import read_records
from danlu.text.steps.privacy import DATA

EACH = 2000  # sentences of a kind and language

SENTENCES = {
    (
        "mobile",
        "zh",
    ): "电话{}|我的手机号是{}，有事随时联系|加我微信：{}|{}（微信同号）|联系人小李 {}|验证码已发送至{}。|打{}找我|{}|"
    "收货信息：{}，请放门口|Tel:{}|有需要的可以联系{}哈😊|【顺丰】您的快递员{}正在派送",
    ("mobile", "en"): "Call me at {}.|my number is {}|Phone: {}|text {} when you arrive|WeChat/phone {}, thanks!",
    ("phone", "zh"): "座机{}|请拨打{}咨询|办公电话：{}，传真另询|{}，上午九点到下午五点|联系电话 {}",
    ("phone", "en"): "Call me at {}.|my number is {}|Phone: {}|You can reach us on {}, any time|Fax {}",
    ("email", "zh"): "邮箱{}|发到{}就行|E-mail：{}，谢谢|请把简历投递至{}。|（{}）",
    ("email", "en"): "Email me at {}.|<{}>|contact: {}, or call|mailto:{}|It's {}!",
    ("id_card", "zh"): "身份证号{}|证件号码：{}，请核对|{}|我的身份证是{}。|身份证（{}）",
    ("id_card", "en"): "ID: {}|ID number {}, please check|my Chinese ID is {}.",
    ("bank_card", "zh"): "卡号{}|请转到{}，户名王某|银行卡：{}。|工行卡{}尾号对吗|账号 {}",
    ("bank_card", "en"): "card number {}|Visa {}|Please charge my card {}, thanks|account: {}.",
    ("ip", "zh"): "服务器{}连不上|登录IP：{}|来自{}的请求|主机地址是{}，端口8080|ping {} 不通",
    ("ip", "en"): "Connect to {} first.|client {} closed|IP address: {}|from {}:8080|ssh root@{}",
    ("address", "zh"): "我住在{}。|地址：{}|寄到{}就行|收货地址是{}，谢谢|家住{}的张女士|公司位于{}",
    ("address", "en"): "I live at {}.|Address: {}|Ship it to {}, please|Our office is at {}|{} is where I grew up",
    (
        "name",
        "zh",
    ): "我叫{}|我叫{}，今年25岁|姓名：{}|联系人：{}|我的名字是{}。|大家好，我是{}|请找{}先生|{}女士您好|收件人：{}，"
    "电话见下|昨天见到了{}老师|患者：{}，男，45岁|他叫{}，是我同学|{}医生建议我多休息|我是{}，请多关照",
    ("name", "en"): "My name is {}.|Hi, I'm {}.|I am {} and I live in town.|Name: {}\nAge: 30|Dear {},\nthank you|"
    "Dr. {} will see you now.|Best regards,\n{}|This is {} speaking|Have you met Mr. {}?|call me {}.",
    ("bare name", "zh"): "下午和{}去打球|{}昨天没来上班|这是{}写的报告|我跟{}吵架了",
    ("bare name", "en"): "I met {} yesterday.|{} has sent the report|Ask {} about it",
}
NOBODY = {
    "zh":
    "订单号{order}，{date}下单|售价￥{price}，原价{price}元|版本 {version}|{date} {clock} 更新到 v{version}|"
    "ISBN {isbn}|圆周率是3.14159265358979323846|{big}个样本，准确率{share}|编号{order}|时间戳{stamp}|"
    "坐标 39.904211,116.407395|股票代码600519涨{share}|京政发〔2020〕12号|第{small}条至第{small}条|"
    "身高175cm，体重{small}kg|{small}路公交车|0.{order}|QQ群{group}|{big}×{small}＝{big}|commit {hash}|"
    "尺寸{small}x{small}x{small}|{clock}-{clock}营业|1.{small}.{small}.1 小节|高铁G{small}次|"
    "２０２４年５月１２日|马上到|他叫什么名字|我是高中生|周末老师放假|知道3号楼吗",
    "en":
    "order {order} of {date}|it costs ${price}, was ${price}|version {version}|{date} {clock} build {version}|"
    "ISBN {isbn}|pi is 3.14159265358979323846|{big} samples, {share} right|id={order}|timestamp {stamp}|"
    "39.904211, -116.407395|page {small}-{small}|RFC {small}, section 1.{small}.{small}.1|"
    "{big} x {small} = {big}|commit {hash}|from {clock} to {clock}|0.{order}|score 3-2-1|"
    "In 1984 Wall Street crashed|I am Happy|call me Later|Name: MyResource|Dr. Who|[1, 22, 333, 4444, 55555]|"
    "uuid {hash}-{small}",
}  # fmt: skip


def main() -> None:
    if sys.argv[1:2] == ["real"]:
        paths = [argument for argument in sys.argv[2:] if "=" not in argument]
        shown = next((int(a.removeprefix("show=")) for a in sys.argv[2:] if a.startswith("show=")), 10)
        for path in paths:
            real(Path(path), shown)
        return
    result = {"found": made(), "nobody": nobody()}
    for kind, row in result["found"].items():
        print(
            f"{kind:14} found {row['found']:6.1%} of {row['values']}, precision {row['precision']:6.1%}, "
            f"missed: {row['missed']}"
        )
    print(f"numbers that are nobody's: {result['nobody']['hits']} taken of {result['nobody']['sentences']} sentences: "
          f"{result['nobody']['examples']}")  # fmt: skip
    if sys.argv[2:]:
        Path(sys.argv[2]).write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", "utf-8")


def made() -> dict[str, dict[str, object]]:
    values, rng = makers(), random.Random(0)
    rows: dict[str, dict[str, object]] = {}
    for (kind, language), sentences in SENTENCES.items():
        found = wrong = 0
        missed: list[str] = []
        for sentence, value in cases(sentences.split("|"), values[kind.removeprefix("bare "), language], rng):
            text, start = sentence.format(value), sentence.index("{}")
            spans = find(text, DATA, names.names_pattern(names.names([text])))
            inside = [span for span in spans if span.start < start + len(value) and start < span.end]
            wrong += len(spans) - len(inside)
            whole = len(inside) == 1 and inside[0].start <= start and inside[0].end >= start + len(value)
            if whole and inside[0].datum == kind.removeprefix("bare "):
                found += 1
            else:
                missed.append(text)
                wrong += sum(span.datum != kind.removeprefix("bare ") for span in inside)
        rows[f"{kind} {language}"] = {
            "values": EACH,
            "found": found / EACH,
            "precision": found / (found + wrong) if found else 1.0,
            "missed": rng.sample(missed, min(3, len(missed))),
        }
    return rows


def cases(sentences: list[str], value: Callable[[], str], rng: random.Random) -> Iterator[tuple[str, str]]:
    return ((rng.choice(sentences), value()) for _ in range(EACH))


def nobody() -> dict[str, object]:
    rng = random.Random(1)
    hits: list[str] = []
    for _ in range(EACH):
        for sentences in NOBODY.values():
            text = rng.choice(sentences.split("|")).format(**ordinary(rng))
            spans = find(text, DATA, names.names_pattern(names.names([text])))
            hits += [f"{span.datum}: {text}" for span in spans]
    return {"sentences": 2 * EACH, "hits": len(hits), "examples": hits[:5]}


def ordinary(rng: random.Random) -> dict[str, str]:
    def digits(count: int) -> str:
        return "".join(rng.choice("0123456789") for _ in range(count))

    return {
        "date": f"{rng.randint(1950, 2030)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}",
        "clock": f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}",
        "order": f"2024{rng.randint(1, 12):02d}{rng.randint(1, 28):02d}{digits(rng.choice([6, 8, 10, 12]))}",
        "price": f"{rng.randint(1, 99999):,}.{digits(2)}",
        "version": ".".join(str(rng.randint(0, 30)) for _ in range(rng.choice([2, 3, 4]))),
        "isbn": f"978-{rng.randint(0, 9)}-{digits(3)}-{digits(5)}-{digits(1)}",
        "big": str(rng.randint(10**5, 10**9)),
        "small": str(rng.randint(2, 400)),
        "share": f"{rng.random():.2%}",
        "stamp": str(rng.randint(1_500_000_000_000, 1_800_000_000_000)),
        "group": digits(9),
        "hash": f"{rng.getrandbits(160):040x}",
    }


def makers() -> dict[tuple[str, str], Callable[[], str]]:
    """What makes a value of a kind in a language."""
    from faker import Faker

    zh, en = Faker("zh_CN"), Faker("en_US")
    zh.seed_instance(0)
    en.seed_instance(0)
    rng = random.Random(2)

    def mobile() -> str:
        plain = zh.phone_number()
        parts = plain[:3], plain[3:7], plain[7:]
        wide = plain.translate({48 + digit: 0xFF10 + digit for digit in range(10)})
        layouts = [
            plain,
            plain,
            plain,
            "-".join(parts),
            " ".join(parts),
            f"+86 {plain}",
            f"+86-{'-'.join(parts)}",
            wide,
        ]
        return rng.choice(layouts)

    def fixed() -> str:
        area = rng.choice(["010", "021", "020", "0571", "0755", "028", "0512", "0898"])
        number = str(rng.randint(2, 8)) + "".join(rng.choice("0123456789") for _ in range(7))
        return rng.choice(
            [
                f"{area}-{number}",
                f"({area}){number}",
                f"（{area}）{number[:4]} {number[4:]}",
                f"{area} {number}",
                f"{area}-{number}-{rng.randint(100, 999)}",
            ]
        )

    def american() -> str:
        a, b, c = rng.randint(201, 989), rng.randint(201, 989), rng.randint(0, 9999)
        if b == 555:
            b = 556
        a = 415 if a in (800, 822, 833, 844, 855, 866, 877, 888, 900) else a
        layouts = [
            f"({a}) {b}-{c:04d}",
            f"{a}-{b}-{c:04d}",
            f"+1 {a}-{b}-{c:04d}",
            f"+1 ({a}) {b}-{c:04d}",
            f"+44 20 7{b} {c:04d}",
        ]
        return rng.choice(layouts)

    def id_card() -> str:
        number = zh.ssn()
        assert number[17] == id_check_digit(number)
        return rng.choice([number, number, number.lower(), f"{number[:6]} {number[6:14]} {number[14:]}"])

    def bank_card() -> str:
        number = en.credit_card_number(rng.choice(["visa", "mastercard", "amex"]))
        if rng.random() < 0.6:
            number = union_pay(rng)
        groups = " ".join(number[at : at + 4] for at in range(0, len(number), 4))
        return rng.choice([number, groups, groups.replace(" ", "-")])

    def address_zh() -> str:
        province, city = rng.choice(
            [
                ("浙江省", "杭州市"),
                ("", "北京市"),
                ("广东", "深圳市"),
                ("四川省", "成都市"),
                ("", "武汉"),
                ("江苏省", "苏州市"),
                ("", ""),
            ]
        )
        district = zh.district() + rng.choice(["区", "区", "县"])
        street = (
            zh.last_name() + rng.choice("安家和平新兴文化") + rng.choice(["路", "街", "大道", "巷", "东路", "南街"])
        )
        inside = rng.choice(
            [
                "",
                "",
                f"{rng.randint(1, 30)}号楼{rng.randint(1, 6)}单元{rng.randint(101, 2804)}室",
                f"{rng.randint(1, 20)}栋{rng.randint(101, 2804)}",
                "3楼",
                "B座1203室",
            ]
        )
        return f"{province}{city}{district}{street}{rng.randint(1, 999)}号{inside}"

    def address_en() -> str:
        kind = rng.choice(["Street", "St", "Avenue", "Ave", "Road", "Lane", "Drive", "Blvd"])
        street = f"{rng.randint(1, 9999)} {en.last_name()} {kind}"
        flat = rng.choice(["", "", f", Apt {rng.randint(1, 99)}", f" Suite {rng.randint(100, 999)}"])
        town = rng.choice(["", f", {en.last_name()}ville, {en.state_abbr()} {en.postcode()}"])
        return street + flat + town

    def name_en() -> str:
        return f"{en.first_name()} {en.last_name()}"

    return {
        ("mobile", "zh"): mobile, ("mobile", "en"): mobile,
        ("phone", "zh"): fixed, ("phone", "en"): american,
        ("email", "zh"): zh.ascii_free_email, ("email", "en"): en.ascii_company_email,
        ("id_card", "zh"): id_card, ("id_card", "en"): id_card,
        ("bank_card", "zh"): bank_card, ("bank_card", "en"): bank_card,
        ("ip", "zh"): en.ipv4_public, ("ip", "en"): en.ipv4_public,
        ("address", "zh"): address_zh, ("address", "en"): address_en,
        ("name", "zh"): zh.name, ("name", "en"): name_en,
    }  # fmt: skip


def union_pay(rng: random.Random) -> str:
    """A 16 to 19-digit number of UnionPay, its check digit by a plain Luhn."""
    number = "62" + "".join(rng.choice("0123456789") for _ in range(rng.choice([13, 16])))
    total = sum(sum(divmod(int(d) * (2 - at % 2), 10)) for at, d in enumerate(reversed(number)))
    return number + str(-total % 10)


def real(path: Path, shown: int) -> None:
    source = CleanSource(path=str(path), max_bad_share=1.0)
    hits: dict[str, list[str]] = defaultdict(list)
    characters, seconds = 0, 0.0
    for record in read_records(source, kind_of(source), Counts()):
        texts = [record.text] if isinstance(record, Document) else [m["content"] for m in messages_of(record)]
        start = time.process_time()
        people = names.names_pattern(names.names(texts))
        found = [(text, find(text, DATA, people)) for text in texts]
        seconds += time.process_time() - start
        characters += sum(map(len, texts))
        for text, spans in found:
            for span in spans:
                left, right = text[max(0, span.start - 20) : span.start], text[span.end : span.end + 10]
                hits[span.datum].append(f"{left}【{text[span.start : span.end]}】{right}".replace("\n", "⏎"))
    print(f"{path}: {characters / 1e6:.1f} million characters, {characters / 1e6 / seconds:.0f} million a second")
    rng = random.Random(0)
    for datum, examples in sorted(hits.items(), key=lambda item: -len(item[1])):
        print(f"  {datum:10} {len(examples):6} {len(examples) / characters * 1e6:8.2f} a million")
        for example in rng.sample(examples, min(shown, len(examples))):
            print("      ", example)


if __name__ == "__main__":
    main()
