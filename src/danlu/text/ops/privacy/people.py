"""Small dictionaries of how people are called, in Chinese and in English."""

from __future__ import annotations

from danlu.text.lexicon import words

# The commonest surnames of China (over 95% of its people).
ALL_SURNAMES = frozenset(
    "王李张刘陈杨黄赵吴周徐孙马朱胡郭何高林罗郑梁谢宋唐许韩冯邓曹彭曾肖田董袁潘于蒋蔡余杜叶程苏魏吕丁任沈姚卢姜崔钟谭陆汪范金石廖"
    "贾夏韦付方白邹孟熊秦邱江尹薛闫段雷侯龙史陶黎贺顾毛郝龚邵万钱严覃武戴莫孔向汤常温康施文牛樊葛邢安齐易乔伍庞颜倪庄聂章鲁岳翟殷詹"
    "申欧耿关兰焦俞左柳甘祝包宁尚符舒阮柯纪梅童凌毕单裴霍涂成苗谷曲盛冉翁蓝骆路游靳辛管柴蒙鲍华喻祁蒲房滕屈饶解牟艾尤阳穆娄卓车"
    "项古卜冀蔺应劳麦褚娜封桂边卞储盖晏晋景敖闵慕萧闻仇冼虞佟迟栾宫米桑苟窦臧扬占丛商巩简隋郁寇时全有池党师原席强戚敬水连"
    "趙吳張陳黃劉楊鄭許馮鄧蕭葉蘇呂盧鍾譚陸賈韋鄒邱齊顧龔湯龍嚴錢賴賀廖羅孫"
)
# Of these, everyday words that need a word before them which only a name follows.
SURNAMES = ALL_SURNAMES - frozenset("向成单盖解应路管米车商景简占晋左常古时全有池党师原席强敬水连")
COMPOUND_SURNAMES = frozenset(
    words("欧阳 上官 司马 诸葛 东方 皇甫 尉迟 公孙 慕容 长孙 令狐 夏侯 司徒 端木 南宫 歐陽 諸葛")
)

# Characters that given names are made of; needed where no punctuation says where a name begins.
GIVEN = frozenset(
    "伟芳娜秀英敏静丽强磊军洋勇艳杰娟涛明超兰霞平刚桂红玉萍文华建国金梅春琴云海波宁辉玲鹏志飞燕健利民晨斌宇浩凯俊帆帅旭龙林欢佳阳亮峰"
    "瑞兵雷东博彬坤岩杨楠珍莉凤晶颖雪慧倩畅洁柳淑冬婷丹颜康庆福永德贵荣祥兴富义信仁礼智忠孝廉良善美香月莲菊竹松柏桃杏荷芬芝芸苗若茜莹"
    "菲萌蓉蕾薇雅诗语梦琪瑶璐珊琳瑾瑜璇玥婧媛嫣妍姝娇婉嘉怡悦欣心思念忆恬恩惠意爱晓晴昕昊昱晖晗晟暄曦景星辰宸宏宗家容寒少山岚峻川江河"
    "湘沛泽洪涵淇清渊润源溪滨潇澜瀚然烨炜焱煜熙灿子孟学安冠冰凌凡一乐久之书亚亦京仪伊伦佩依俞修元光克兆力功勋勤千升卓南友双君吉启呈"
    "咏品哲唐喜培士天奇奕如妮姗姣娅婵小尚展崇巧庭弘彤彦彪彩影怀慕懿承扬振敬新映昌昭显曼朝朗权杉枫柔树栋根桐棋森楚榕毅沁沐泉泓泰洲"
    "淳湛滔炎牧献珂珺琛琦瑛璟甜甫皓益盈盛真睿碧祖禹秋穆立章童筠筱粤素紫绍维绪羽翔翠翰耀聪胜舒舟航艺芮茂荃莎蓓蓝虹蝶裕言诚贝贤跃轩达"
    "迪逸远迎邦郁鑫钊钧钰铁铭银锋锐锦闯隆雁雄雯霄霏霖露青韬韵顺馨骏骁鸣鸿鹤麒麟黎齐迅冲钢庚昆煌炳焕烽辽锡镇钦铎钟锟鉴钱奎圣均垒"
    "晏晶曙杭桢梓梧楷榛檀歆淼渝溢溶漫灵炫燃爽琨琬琰瑄瑗璋璞璨甯畅祺禄禧稷竣笑筝粲纯纪绮缘羿翊翎耘臻芃芊芙苒苓苡茗茵荟莘菁菡萱葳蓁"
    "蔚蕊蕙藜虎虔蝉衡裴誉谦谨豪豫赋超越辅辙辛逊遥郎郡鄂酉釗銘鋒陶陵隽霁霆霓靓靖韦韩顺颂颐飒馥骥骞骧鸥鹃鹏鹭黛"
)

# After these, in a name, no name goes on.
NOT_GIVEN = frozenset(
    "的了着过是在我你您他她它们这那哪谁什么怎没不就也都又还很太和与及或但而且因为所以说叫问请要想会能得给被把让从到对向吗呢吧啊呀哦嗯"
    "哈呗啦岁男女号码址话机住吃喝看做来去个位名只种些每各第几两三四五六七八九十百万元块上下里外前后内"
)

FIRST_NAMES = frozenset(words("""
    James John Robert Michael William David Richard Joseph Thomas Charles Christopher Daniel Matthew Anthony
    Donald Steven Paul Andrew Joshua Kenneth Kevin Brian George Edward Ronald Timothy Jason Jeffrey Ryan Jacob
    Gary Nicholas Eric Jonathan Stephen Larry Justin Scott Brandon Benjamin Samuel Gregory Frank Alexander
    Raymond Patrick Jack Dennis Jerry Tyler Aaron Jose Adam Henry Nathan Douglas Zachary Peter Kyle Walter Ethan
    Jeremy Harold Keith Roger Noah Gerald Terry Sean Arthur Lawrence Jesse Dylan Bryan Joe Jordan Billy Bruce
    Albert Willie Gabriel Logan Alan Juan Wayne Roy Ralph Randy Eugene Vincent Russell Elijah Louis Bobby Philip
    Johnny Mary Patricia Jennifer Linda Elizabeth Barbara Susan Jessica Sarah Karen Lisa Nancy Betty Margaret
    Sandra Ashley Kimberly Emily Donna Michelle Carol Amanda Dorothy Melissa Deborah Stephanie Rebecca Sharon
    Laura Cynthia Kathleen Amy Angela Shirley Anna Brenda Pamela Emma Nicole Helen Samantha Katherine Christine
    Debra Rachel Carolyn Janet Catherine Maria Heather Diane Ruth Julie Olivia Joyce Virginia Victoria Kelly
    Lauren Christina Joan Evelyn Judith Megan Andrea Cheryl Hannah Jacqueline Martha Gloria Teresa Ann Sara
    Madison Frances Kathryn Janice Jean Abigail Alice Julia Judy Sophia Denise Amber Doris Marilyn Danielle
    Beverly Isabella Theresa Diana Natalie Brittany Charlotte Marie Kayla Alexis Lori Tom Mike Bob Jim Bill
    Steve Dave Chris Matt Dan Tony Tim Jeff Greg Nick Alex Sam Ben Josh Andy Fred Ted Max Leo Luke Oliver Liam
    Mason Lucas Aiden Owen Caleb Isaac Evan Connor Hunter Cameron Adrian Ian Colin Simon Graham Nigel Stuart
    Martin Neil Craig Derek Trevor Marcus Carl Karl Oscar Hugo Felix Victor Ivan Carlos Luis Miguel Pedro Diego
    Antonio Francisco Manuel Javier Sergio Ricardo Fernando Kate Katie Jane Jenny Jill Liz Beth Sue Ellen Sally
    Wendy Tina Tracy Stacy Cindy Mandy Molly Lucy Sophie Chloe Ella Mia Ava Zoe Lily Leah Claire Audrey Natasha
    Monica Veronica Vanessa Valerie Yvonne Sylvia Rita Rosa Carmen Elena Sofia Lucia Ana Priya Raj Ravi Amit
    Anil Sanjay Deepak Ahmed Mohammed Muhammad Ali Omar Hassan Fatima Aisha Yusuf Ibrahim Courtney Don Austin
    Brandi Brandy Jamie Erin Shannon Crystal Dana Holly Kristen Kristin Tammy Tonya Tiffany Erica Erika
    Cassandra Katrina Desiree Alicia Melanie Kristina Kristine Latoya Marissa Misty Carrie Stacey Tara Jasmine
    Taylor Morgan Sierra Alejandro Angel Cody Cory Corey Dakota Dalton Dustin Chad Bradley Brett Blake Casey
    Clayton Clinton Curtis Darrell Darren Derrick Devin Dwayne Edgar Edwin Erik Ernest Francis Frederick Glenn
    Grant Harry Herbert Howard Jared Jay Jesus Jimmy Joel Jon Johnathan Jorge Julian Kent Kirk Lance Lee Leonard
    Leslie Lewis Malik Mario Marvin Maurice Micheal Mitchell Nathaniel Perry Phillip Preston Ray Reginald Ricky
    Robin Rodney Ross Shane Shaun Shawn Spencer Stanley Todd Travis Troy Wesley Xavier Yolanda Wanda Vicki
    Vickie Traci Toni Tamara Suzanne Sherry Sheila Sheri Shelly Shelby Savannah Sabrina Roberta Rhonda Regina
    Rebekah Priscilla Phyllis Peggy Paula Patty Norma Nina Mindy Miranda Mercedes Meredith Melinda Meghan
    Mckenzie Maureen Marisa Mallory Makayla Mackenzie Lynn Loretta Laurie Kristi Kristy Krista Kim Kendra Kelli
    Kellie Kelsey Kaylee Kathy Karla Kara Joann Joanna Joanne Jillian Jo Jeanne Jeanette Jaime Jackie Hailey
    Haley Gwendolyn Gina Gail Gabriella Gabrielle Ebony Eileen Elaine Destiny Deanna Dawn Darlene Colleen
    Christy Christie Chelsea Charlene Cassidy Caroline Carla Carly Caitlin Candace Candice Bonnie Breanna
    Brianna Briana Bridget Brooke Bianca Becky Belinda Anne Annette Ariel Arianna Anita Angelica Alyssa Allison
    Alison Alexandra Adriana
"""))  # fmt: skip
