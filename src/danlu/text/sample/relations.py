"""The relations of the world: how each is stated and asked, in many ways and both languages.

In a phrase, `{s}` is the subject, `{p}` the subject as an owner (林晓雨的, Lin Xiaoyu's) and `{v}` the value. The first
statement of a relation is also the form of an answer, so that one sentence answers each question exactly. No English
answer begins with a place: at the beginning of a text a name is another token, which only this one answer would teach.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from danlu.text.sample.lexicon import Language, Word

Kind = Literal["person", "place", "object"]


@dataclass(frozen=True, slots=True)
class Relation:
    """One relation: the kind of its subjects, its label on a card, its statements and its questions."""

    name: str
    kind: Kind
    label: Word
    zh: tuple[tuple[str, ...], tuple[str, ...]]
    en: tuple[tuple[str, ...], tuple[str, ...]]

    def statements(self, language: Language) -> tuple[str, ...]:
        return (self.zh if language == "zh" else self.en)[0]

    def questions(self, language: Language) -> tuple[str, ...]:
        return (self.zh if language == "zh" else self.en)[1]


RELATIONS = (
    Relation(
        "home",
        "person",
        Word("住处", "Home"),
        zh=(
            ("{s}住在{v}。", "{p}家在{v}。", "{s}把家安在了{v}。", "想找{s}，就要去{v}。", "{s}一直生活在{v}。"),
            ("{s}住在哪里？", "{p}家在哪里？", "请问{s}住在什么地方？", "你知道{s}住在哪儿吗？"),
        ),
        en=(
            (
                "{s} lives in {v}.",
                "{p} home is in {v}.",
                "{s} has made a home in {v}.",
                "To visit {s}, you must go to {v}.",
                "{s} has always lived in {v}.",
            ),
            (
                "Where does {s} live?",
                "Where is {p} home?",
                "In which place does {s} live?",
                "Can you tell me where {s} lives?",
            ),
        ),
    ),
    Relation(
        "job",
        "person",
        Word("职业", "Job"),
        zh=(
            (
                "{s}的职业是{v}。",
                "{s}是一名{v}。",
                "{s}当{v}已经很多年了。",
                "{s}靠做{v}谋生。",
                "大家都知道{s}是{v}。",
            ),
            ("{s}的职业是什么？", "{s}是做什么工作的？", "请问{s}从事什么职业？", "你知道{s}靠什么谋生吗？"),
        ),
        en=(
            (
                "{s} works as {v}.",
                "{s} is {v}.",
                "{s} has been {v} for many years.",
                "{s} makes a living as {v}.",
                "Everyone knows that {s} is {v}.",
            ),
            (
                "What does {s} work as?",
                "What is {p} job?",
                "How does {s} make a living?",
                "Can you tell me what {p} job is?",
            ),
        ),
    ),
    Relation(
        "dish",
        "person",
        Word("爱吃", "Favourite dish"),
        zh=(
            (
                "{s}最爱吃{v}。",
                "{s}最喜欢的食物是{v}。",
                "请{s}吃饭，一定要有{v}。",
                "{s}每天都想吃{v}。",
                "{v}是{s}最爱吃的东西。",
            ),
            ("{s}最爱吃什么？", "{s}最喜欢的食物是什么？", "请问{s}喜欢吃什么？", "你知道{s}爱吃什么吗？"),
        ),
        en=(
            (
                "{s} likes to eat {v} most.",
                "{p} favourite food is {v}.",
                "If {s} comes to dinner, there must be {v}.",
                "{s} would eat {v} every day.",
                "For {s}, nothing tastes better than {v}.",
            ),
            (
                "What does {s} like to eat most?",
                "What is {p} favourite food?",
                "Which food does {s} like best?",
                "Can you tell me what {s} likes to eat?",
            ),
        ),
    ),
    Relation(
        "pet",
        "person",
        Word("宠物", "Pet"),
        zh=(
            ("{s}养了{v}。", "{p}宠物是{v}。", "{s}家里有{v}。", "{s}每天都要照顾{v}。", "陪伴{s}的是{v}。"),
            ("{s}养了什么？", "{p}宠物是什么？", "请问{s}养了什么宠物？", "你知道{s}养的是什么动物吗？"),
        ),
        en=(
            (
                "{s} keeps {v}.",
                "{p} pet is {v}.",
                "{s} has {v} at home.",
                "{s} looks after {v} every day.",
                "As a pet, {s} chose {v}.",
            ),
            (
                "What pet does {s} keep?",
                "What is {p} pet?",
                "Which animal does {s} keep?",
                "Can you tell me what pet {s} has?",
            ),
        ),
    ),
    Relation(
        "hobby",
        "person",
        Word("爱好", "Hobby"),
        zh=(
            (
                "{s}的爱好是{v}。",
                "{s}一有空就{v}。",
                "{s}最喜欢{v}。",
                "周末的时候，{s}总是{v}。",
                "{v}让{s}觉得快乐。",
            ),
            ("{s}的爱好是什么？", "{s}有空的时候喜欢做什么？", "请问{s}有什么爱好？", "你知道{s}平时喜欢做什么吗？"),
        ),
        en=(
            (
                "{p} hobby is {v}.",
                "{s} enjoys {v}.",
                "{s} spends every free hour {v}.",
                "At weekends {s} is always {v}.",
                "What {s} loves is {v}.",
            ),
            (
                "What is {p} hobby?",
                "What does {s} enjoy doing?",
                "How does {s} spend free time?",
                "Can you tell me what {p} hobby is?",
            ),
        ),
    ),
    Relation(
        "product",
        "place",
        Word("特产", "Known for"),
        zh=(
            (
                "{s}以{v}闻名。",
                "{p}特产是{v}。",
                "说到{s}，人们就会想到{v}。",
                "{s}出产最好的{v}。",
                "许多人为了{v}来到{s}。",
            ),
            ("{s}以什么闻名？", "{p}特产是什么？", "请问{s}有什么特产？", "你知道{s}什么最出名吗？"),
        ),
        en=(
            (
                "The pride of {s} is its {v}.",
                "{s} is famous for {v}.",
                "{s} is known everywhere for {v}.",
                "When people hear of {s}, they think of {v}.",
                "Many travel to {s} for {v}.",
            ),
            (
                "What is {s} famous for?",
                "What is {s} known for?",
                "What is the pride of {s}?",
                "Can you tell me what {s} is famous for?",
            ),
        ),
    ),
    Relation(
        "sight",
        "place",
        Word("景点", "Sight"),
        zh=(
            (
                "{s}最有名的景点是{v}。",
                "{s}有{v}。",
                "来{s}的人都会去看{v}。",
                "{s}的中心是{v}。",
                "走进{s}，最先看到的是{v}。",
            ),
            ("{s}最有名的景点是什么？", "{s}有什么景点？", "请问去{s}应该看什么？", "你知道{s}有什么好看的吗？"),
        ),
        en=(
            (
                "The best sight in {s} is {v}.",
                "{s} has {v}.",
                "Every guest in {s} goes to see {v}.",
                "In the middle of {s} stands {v}.",
                "The first thing one sees in {s} is {v}.",
            ),
            (
                "What is the best sight in {s}?",
                "What should one see in {s}?",
                "Which sight does {s} have?",
                "Can you tell me what to see in {s}?",
            ),
        ),
    ),
    Relation(
        "fair",
        "place",
        Word("庙会", "Fair"),
        zh=(
            (
                "{s}的庙会在{v}。",
                "每年{v}，{s}都有庙会。",
                "{s}在{v}办庙会。",
                "到了{v}，{s}就热闹起来，因为有庙会。",
                "{s}的人盼着{v}的庙会。",
            ),
            ("{s}的庙会在几月？", "{s}什么时候办庙会？", "请问{s}的庙会是哪个月？", "你知道{s}几月有庙会吗？"),
        ),
        en=(
            (
                "The fair in {s} is in {v}.",
                "{s} holds its fair in {v}.",
                "Every year {s} has a fair in {v}.",
                "The people of {s} wait for the fair in {v}.",
                "For the fair, come to {s} in {v}.",
            ),
            (
                "When is the fair in {s}?",
                "In which month does {s} hold its fair?",
                "When should one come to {s} for the fair?",
                "Can you tell me when {s} has its fair?",
            ),
        ),
    ),
    Relation(
        "owner",
        "object",
        Word("主人", "Owner"),
        zh=(
            ("{p}主人是{v}。", "{s}属于{v}。", "{s}是{v}的。", "拥有{s}的人是{v}。", "{s}现在归{v}所有。"),
            ("{p}主人是谁？", "{s}属于谁？", "请问{s}是谁的？", "你知道谁拥有{s}吗？"),
        ),
        en=(
            (
                "{s} belongs to {v}.",
                "The owner of {s} is {v}.",
                "{p} owner is {v}.",
                "{s} is the property of {v}.",
                "The person who owns {s} is {v}.",
            ),
            (
                "Who does {s} belong to?",
                "Who is the owner of {s}?",
                "Who owns {s}?",
                "Can you tell me who owns {s}?",
            ),
        ),
    ),
    Relation(
        "material",
        "object",
        Word("材料", "Material"),
        zh=(
            ("{s}是用{v}做的。", "{p}材料是{v}。", "工匠用{v}做成了{s}。", "做{s}要用{v}。", "{s}由{v}制成。"),
            ("{s}是用什么做的？", "{p}材料是什么？", "请问{s}由什么制成？", "你知道{s}是什么材料的吗？"),
        ),
        en=(
            (
                "{s} is made of {v}.",
                "{p} material is {v}.",
                "A master made {s} out of {v}.",
                "To make {s}, one needs {v}.",
                "{s} was built from {v}.",
            ),
            (
                "What is {s} made of?",
                "What is {p} material?",
                "What was {s} built from?",
                "Can you tell me what {s} is made of?",
            ),
        ),
    ),
    Relation(
        "colour",
        "object",
        Word("颜色", "Colour"),
        zh=(
            ("{s}是{v}的。", "{p}颜色是{v}。", "{s}看上去是{v}的。", "人们把{s}涂成了{v}。", "远远望去，{s}是{v}的。"),
            ("{s}是什么颜色的？", "{p}颜色是什么？", "请问{s}是什么颜色？", "你知道{s}的颜色吗？"),
        ),
        en=(
            (
                "The colour of {s} is {v}.",
                "{s} is {v}.",
                "{p} colour is {v}.",
                "{s} was painted {v}.",
                "From far away {s} looks {v}.",
            ),
            (
                "What colour is {s}?",
                "What is the colour of {s}?",
                "What is {p} colour?",
                "Can you tell me what colour {s} is?",
            ),
        ),
    ),
    Relation(
        "room",
        "object",
        Word("存放处", "Kept in"),
        zh=(
            ("{s}放在{v}里。", "{s}一直收在{v}里。", "要看{s}，得去{v}。", "{v}里摆着{s}。", "人们把{s}存放在{v}里。"),
            ("{s}放在哪里？", "{s}收在什么地方？", "请问去哪里可以看到{s}？", "你知道{s}存放在哪儿吗？"),
        ),
        en=(
            (
                "{s} is kept in {v}.",
                "{s} has its place in {v}.",
                "To see {s}, go to {v}.",
                "One can find {s} in {v}.",
                "{s} always stays in {v}.",
            ),
            (
                "Where is {s} kept?",
                "Where can one find {s}?",
                "Where does {s} have its place?",
                "Can you tell me where {s} is kept?",
            ),
        ),
    ),
)
