"""Personal data: what is found, what is left alone, and what stands in its place."""

from __future__ import annotations

import re
from datetime import date
from ipaddress import ip_address
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from danlu.text.ops.privacy import names
from danlu.text.ops.privacy.cards import is_bank_card, is_id_card
from danlu.text.ops.privacy.pseudonyms import pseudonym
from danlu.text.ops.privacy.redact import find, measure, redact
from danlu.text.records import Conversation, Document, Preference, Record
from danlu.text.steps.privacy import DATA, PrivacyStep

ALL = PrivacyStep(find=list(DATA))


def found(text: str) -> list[tuple[str, str]]:
    people = names.names_pattern(names.names([text]))
    return [(span.datum, text[span.start : span.end]) for span in find(text, DATA, people)]


@pytest.mark.parametrize(
    ("text", "datum", "value"),
    [
        ("电话13812345678", "mobile", "13812345678"),
        ("我的号是13812345678，晚上打", "mobile", "13812345678"),
        ("手机：138-1234-5678。", "mobile", "138-1234-5678"),
        ("微信同号138 1234 5678😊", "mobile", "138 1234 5678"),
        ("电话１３８１２３４５６７８。", "mobile", "１３８１２３４５６７８"),
        ("拨打+86 13812345678", "mobile", "+86 13812345678"),
        ("(+86)13812345678", "mobile", "(+86)13812345678"),
        ("tel=13812345678&x=1", "mobile", "13812345678"),
        ("𠀀13912345678𠀀", "mobile", "13912345678"),
        ("电话是010-82885858，周边", "phone", "010-82885858"),
        ("座机（0571）8888 6666", "phone", "（0571）8888 6666"),
        ("请拨打021-62345678-8021", "phone", "021-62345678-8021"),
        ("联系电话02062345678", "phone", "02062345678"),
        ("电话是69268956。", "phone", "69268956"),
        ("call (415) 844-9759.", "phone", "(415) 844-9759"),
        ("at +44 20 7946 1958 today", "phone", "+44 20 7946 1958"),
        ("Their phone number is 1 40 62 05 00, 2055 1234", "phone", "1 40 62 05 00"),
        ("or +33 1 42 57 14 55.", "phone", "+33 1 42 57 14 55"),
        ("邮箱zhang.san@qq.com，谢谢", "email", "zhang.san@qq.com"),
        ("mailto:Jo+x@mail.co.uk.", "email", "Jo+x@mail.co.uk"),
        ("身份证号11010519491231002X。", "id_card", "11010519491231002X"),
        ("证件110105 19491231 002x", "id_card", "110105 19491231 002x"),
        ("卡号6222021234567890128", "bank_card", "6222021234567890128"),
        ("Visa 4012 8888 8888 1881", "bank_card", "4012 8888 8888 1881"),
        ("amex card 3782-822463-10005", "bank_card", "3782-822463-10005"),
        ("登录IP：81.174.152.222", "ip", "81.174.152.222"),
        ("from 2606:2800:220:1:248:1893:25c8:1946 ok", "ip", "2606:2800:220:1:248:1893:25c8:1946"),
        ("住北京市朝阳区阜通东大街6号院3号楼1201室。", "address", "北京市朝阳区阜通东大街6号院3号楼1201室"),
        ("寄到浙江杭州市西湖区文三路138号就行", "address", "浙江杭州市西湖区文三路138号"),
        ("1634 Bush Street, Apt 5, Troy, IL 62701.", "address", "1634 Bush Street, Apt 5, Troy, IL 62701"),
        ("我叫王小明，今年25岁", "name", "王小明"),
        ("姓名：欧阳娜娜\n性别：女", "name", "欧阳娜娜"),
        ("请找李建国先生", "name", "李建国"),
        ("收件人：约翰·史密斯", "name", "约翰·史密斯"),
        ("My name is John Smith, hi", "name", "John Smith"),
        ("I'm Susan.", "name", "Susan"),
        ("Dr. Okonkwo will see you", "name", "Okonkwo"),
        ("Best regards,\nMary Jones", "name", "Mary Jones"),
    ],
)  # fmt: skip
def test_found(text: str, datum: str, value: str) -> None:
    assert (datum, value) in found(text)


@pytest.mark.parametrize(
    "text",
    [
        "2024年05月12日，2024-05-12 12:30:45，２０２４年",
        "售价￥13812345678.50 元，0.13812345678，13812345678.5",
        "营收¥13812345678，亏损13912345678元，约13912345678 美元，13712345678字节，sold for €13812345678",
        "订单号20240512138123456789，编号 138123456789",
        "版本 10.0.19045.1，v1.2.3.4，opencv==4.5.2.52，第1.22.3.4节",
        "127.0.0.1 192.168.1.1 10.0.0.8 8.8.8.8 203.0.113.9 2001:db8::1 fe80::1 ::1 std::vector",
        "ISBN 978-7-111-54493-7，圆周率3.14159265358979323846",
        "17179869184 字节，13900000000 上限",
        "热线400-820-8820，800-555-1234，(800) 555-0100",
        "555-0123, +1 415-555-0199",
        "git@github.com:a/b.git, me@example.com, @property, a@b, x@localhost",
        "身份证110105194912310021",  # the check character is wrong
        "卡号6222021234567890127",
        "commit 1381234567812ab, a13812345678b, 0x13812345678",
        "1984 Wall Street crashed. In 1950 Main Street burned. 3 Great Ideas",
        "北京的街道12月很冷，据报道3号结束，知道2号楼吗",
        "我叫他过来，他叫什么，我是高中生，我叫车，张三和李四，周末老师，语文老师，小姐姐",
        "I'm Happy. I am Not here. Mr. President, Dr. Who. Name: MyResource",
        "２０２４年",
        "",
    ],
)
def test_left_alone(text: str) -> None:
    assert found(text) == []


def oracle_mod_11_2(number: str) -> bool:
    """ISO 7064, pure system: carried from character to character, ends at 1."""
    state = 0
    for character in number:
        state = (state * 2 + (10 if character == "X" else int(character))) % 11
    return state == 1


def oracle_luhn(number: str) -> bool:
    doubled = "0246813579"  # of a digit, the sum of the digits of its double
    return sum(int(doubled[int(d)] if place % 2 else d) for place, d in enumerate(reversed(number))) % 10 == 0


@given(
    st.sampled_from(["110105", "440304", "650102", "820000"]),
    st.dates(min_value=date(1900, 1, 1), max_value=date(2020, 12, 31)),
    st.integers(0, 999),
    st.sampled_from("0123456789X"),
)
def test_an_id_card_is_one_by_its_check_character(region: str, born: Any, order: int, last: str) -> None:
    number = f"{region}{born:%Y%m%d}{order:03d}{last}"
    assert is_id_card(number) == oracle_mod_11_2(number)
    assert (("id_card", number) in found(f"证件{number}")) == oracle_mod_11_2(number)


@pytest.mark.parametrize("number", ["110105194902300025", "110105188813010023", "990105194912310021"])
def test_no_id_card_without_a_date_and_a_region(number: str) -> None:
    fitting = next(number[:17] + last for last in "0123456789X" if oracle_mod_11_2(number[:17] + last))
    assert not is_id_card(fitting)


@given(st.sampled_from(["62", "4", "51", "34"]), st.text("0123456789", min_size=11, max_size=17))
def test_a_bank_card_is_one_by_issuer_length_and_check_digit(issuer: str, rest: str) -> None:
    number = issuer + rest
    lengths = {"62": range(16, 20), "4": (13, 16, 19), "51": (16,), "34": (15,)}[issuer]
    assert is_bank_card(number) == (len(number) in lengths and oracle_luhn(number) and len(set(number)) > 2)


_PIECES = (
    "13812345678|+86 138-1234-5678|010-82885858|69268956|电话|11010519491231002X|6222021234567890128|a.b@qq.com|@|"
    "81.174.152.222|2606:2800::25c8:1946|我叫|王小明|李娜|先生|John Smith|My name is |Mr. |，|。| |\n|-|1|我住在|"
    "北京市海淀区中关村大街1号|18 Broad St|(415) 844-9759|嗯|a|１３９|😊|phone: |卡号|+|.|:|x"
)
PIECES = st.sampled_from(_PIECES.split("|"))
MESSY = st.lists(PIECES | st.text(max_size=4), max_size=8).map("".join)


@given(MESSY, st.sampled_from(["pseudonym", "mask", "remove"]))
@settings(max_examples=300)
@example("我叫王小明，电话13812345678", "pseudonym")
def test_twice_is_once_and_nothing_else_changes(text: str, action: Any) -> None:
    step = PrivacyStep(find=list(DATA), action=action)
    once = redact(Document(text), step)
    assert redact(once, step).text == once.text
    people = names.names_pattern(names.names([text]))
    spans = find(text, DATA, people)
    assert all(left.end <= right.start for left, right in pairwise(spans))
    assert all(span.start < span.end for span in spans)
    if not spans:
        assert once.text == text
    if sum(once.meta.get("privacy", {}).values()) == 1:
        assert once.text.startswith(text[: spans[0].start]) and once.text.endswith(text[spans[0].end :])


@given(st.integers(0, 10**8 - 1), st.text(max_size=3))
def test_a_mobile_has_one_pseudonym_in_every_layout(digits: int, seed: str) -> None:
    number = f"138{digits:08d}"
    if number.endswith("000000"):
        return
    layouts = [
        number,
        f"{number[:3]}-{number[3:7]}-{number[7:]}",
        f"+86 {number}",
        number.translate({48 + d: 0xFF10 + d for d in range(10)}),
    ]
    step = PrivacyStep(seed=seed)
    texts = [redact(Document(f"电话{layout}。"), step).text for layout in layouts]
    made = {
        re.sub(r"\D", "", text.replace("+86", "")).translate({0xFF10 + d: 48 + d for d in range(10)}) for text in texts
    }
    assert len(made) == 1
    assert next(iter(made)).startswith("154")
    assert texts[1][5] == texts[1][10] == "-"


def test_pseudonyms_have_the_form_and_are_nobodys() -> None:
    assert pseudonym("mobile", "13812345678", "13812345678", "a") != pseudonym(
        "mobile", "13812345678", "13812345678", "b"
    )
    card = pseudonym("id_card", "11010519491231002X", "11010519491231002X", "")
    assert re.fullmatch(r"\d{18}", card) and not oracle_mod_11_2(card)
    bank = pseudonym("bank_card", "6222021234567890128", "6222 0212 3456 7890 128", "")
    assert re.fullmatch(r"62\d\d \d{4} \d{4} \d{4} \d{3}", bank) and not oracle_luhn(bank.replace(" ", ""))
    assert pseudonym("email", "a@qq.com", "a@qq.com", "").endswith("@example.com")
    assert not ip_address(pseudonym("ip", "81.174.152.222", "81.174.152.222", "")).is_global
    assert not ip_address(pseudonym("ip", "2606::1", "2606::1", "")).is_global
    assert re.fullmatch(r"\(\d{3}\) 555-01\d\d", pseudonym("phone", "4158449759", "(415) 844-9759", ""))
    assert re.fullmatch(r"010-1\d{7}", pseudonym("phone", "01082885858", "010-82885858", ""))
    assert re.fullmatch(r"王\w\w", pseudonym("name", "王小明", "王小明", ""))
    full, first, last = (pseudonym("name", name, name, "") for name in ("John Smith", "John", "Smith"))
    assert full == f"{first} {last}"


def conversation() -> list[Any]:
    call = {"type": "function", "function": {"name": "save", "arguments": {"name": "王小明", "phones": [13812345678]}}}
    return [
        {"role": "user", "content": "我叫王小明，电话13812345678"},
        {"role": "assistant", "content": "王小明您好", "reasoning_content": "记下 138-1234-5678", "tool_calls": [call]},
        {"role": "tool", "content": "ok"},
        {"role": "assistant", "content": "已为王小明登记１３８１２３４５６７８", "weight": 1.0},
    ]


@pytest.mark.parametrize("kind", ["conversation", "preference"])
def test_one_person_stays_one_over_all_messages(kind: str) -> None:
    messages = conversation()
    record: Record = (
        Conversation(messages) if kind == "conversation" else Preference(messages[:1], messages[1:2], messages[3:])
    )
    row = str(redact(record, ALL).to_row())
    assert not re.search("小明|1234|３４５", row)
    given_names = set(re.findall(r"王\w\w", row))
    assert len(given_names) == 1
    if kind == "conversation":
        after = redact(record, ALL)
        assert isinstance(after, Conversation)
        arguments = after.messages[1]["tool_calls"][0]["function"]["arguments"]
        assert arguments["name"] in given_names and isinstance(arguments["phones"][0], int)
        assert after.meta["privacy"] == {"name": 4, "mobile": 4}
        assert measure([after, Conversation(messages)], ALL)["mobile"] == [4, 0]
    assert redact(record, ALL) == redact(record, ALL)


def test_actions_and_choice() -> None:
    text = "张伟老师的邮箱是zw@qq.com，电话13812345678"
    assert (
        redact(Document(text), PrivacyStep(find=["mobile"], action="mask")).text
        == "张伟老师的邮箱是zw@qq.com，电话[MOBILE]"
    )
    assert (
        redact(Document(text), PrivacyStep(find=["name", "email"], action="remove")).text
        == "老师的邮箱是，电话13812345678"
    )
    untouched = Document("今天天气不错，3.14")
    assert redact(untouched, ALL) is untouched
    assert measure([], ALL) == {datum: [] for datum in DATA}
