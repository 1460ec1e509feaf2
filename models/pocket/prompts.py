"""What the teacher is asked: everyday tasks, and texts about times, dates, routines and changed plans.

A prompt is `(user, start, shown)`. The teacher reads `user` as a chat turn and continues the answer
that `start` opens. `shown` is a format with `{u}` and `{a}`: how the document is written down.
The teacher is weak at clocks, so every equality ("17:30, that is half past five") is computed here.
"""

import random

NAMES = "Anna Ben Clara David Ella Farid Grace Hugo Ines Jonas Kofi Lena Maya Noah Olga Paul Rosa Sam Tara Yusuf".split()
HOURS = "twelve one two three four five six seven eight nine ten eleven".split()
MINUTES = {5: "five", 10: "ten", 15: "quarter", 20: "twenty", 25: "twenty-five"}
TENS = {10: "ten", 15: "fifteen", 20: "twenty", 30: "thirty", 40: "forty", 45: "forty-five", 50: "fifty"}
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
LENGTHS = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
ORDINALS = ("first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth "
            "fifteenth sixteenth seventeenth eighteenth nineteenth twentieth twenty-first twenty-second twenty-third "
            "twenty-fourth twenty-fifth twenty-sixth twenty-seventh twenty-eighth twenty-ninth thirtieth thirty-first").split()
PLACES = ("bakery;library;post office;pharmacy;museum;town hall;swimming pool;gym;bookshop;market;bank;clinic;cafe;school;"
          "garage;hairdresser;zoo;cinema;ticket office;bike shop;garden centre").split(";")
EVENTS = ["the bus", "the train", "the night ferry", "the first lesson", "the team meeting", "the concert", "the film",
          "the backup", "the report", "the newsletter", "the alarm", "the washing machine", "the heating", "the dentist visit",
          "the football practice", "the choir", "the night shift", "the delivery", "the street market", "the phone call",
          "the cleaning crew", "the sprinkler", "the yoga class", "the tea break", "the school bell", "the stock check"]
CHORES = ["water the plants", "take the medicine", "feed the cat", "call Mum", "pay the rent", "take out the rubbish",
          "send the invoice", "charge the phone", "walk the dog", "check the mail", "back up the laptop", "clean the kitchen",
          "read the meter", "stretch", "drink a glass of water", "lock the door", "renew the library books", "order bread",
          "update the server", "practise the piano", "open the windows", "write the diary", "change the filter", "buy milk"]
MEETINGS = ["meeting", "lesson", "lunch", "appointment", "call", "class", "training", "interview", "dinner", "rehearsal", "visit", "shift"]
TOPICS = ("a rainy day;a new bicycle;a lost key;a small garden;an old map;a birthday cake;a long walk;the first snow;a noisy "
          "neighbour;a broken clock;a train journey;learning to swim;a good book;a shy dog;a market in spring;a night at the "
          "sea;an honest mistake;the best soup;a letter from far away;a power cut;a school play;the moon;bees;bread;rivers;"
          "how a clock works;why leaves fall;what a calendar is;how to plan a week;saving money;sleeping well;eating breakfast;"
          "keeping promises;being on time;saying sorry;making friends;sharing work;a healthy back;tidy cupboards;packing a bag;"
          "cooking rice;growing tomatoes;fixing a tap;writing a thank-you note;choosing shoes;riding the bus;looking after a cat;"
          "a day at the zoo;a quiet library;the four seasons;the months of the year;day and night;time zones;leap years;"
          "public holidays;the history of the calendar;sundials;a busy kitchen;a nurse at night;a baker's morning;a postman;"
          "a farmer in autumn;a lighthouse keeper;a young teacher;two brothers;three friends;a grandmother;a clever crow;"
          "a football match;a chess game;painting a room;learning a language;playing the guitar;a camping trip;an island;"
          "a mountain village;a museum visit;a wedding;a picnic;a thunderstorm;a new job;the first day at school;a flat tyre;"
          "a missed train;a surprise;a rescue;a garden party;a hospital visit;recycling;water;wind;stars;whales;horses;ants;"
          "maps;bridges;paper;salt;glass;cotton;coffee;tea;honey;apples;potatoes;cheese").split(";")
TASKS = ("Write a short story about {t}.;Tell a child about {t}.;Explain {t} in simple words.;Write a few sentences about {t}.;"
         "Write a letter to a friend about {t}.;Write a short poem about {t}.;Give three tips about {t}.;"
         "Write a diary entry about {t}.;What should I know about {t}?;Write a short dialogue about {t}.;"
         "Write a paragraph about {t} for a newspaper.;Describe {t} in one paragraph.;Ask me three questions about {t}.;"
         "Make a short list about {t}.;Write an e-mail about {t}.;Why do people care about {t}?;"
         "Write a true-sounding memory about {t}.;Start a conversation about {t}.;Summarise what matters about {t}.;"
         "Write instructions, step by step, on the subject of {t}.").split(";")
STYLES = ["", "", "", " Be brief.", " Use short sentences.", " Be friendly.", " Be formal.", " Mention a time of day.",
          " Mention two days of the week.", " Use the names {n} and {o}.", " Begin with the weather.", " Write in the past tense."]
CHAT = ["Q: {u}\nA: {a}", "User: {u}\nAssistant: {a}", "{u}\n\n{a}", "{n}: {u}\n{o}: {a}", "Question: {u}\nAnswer: {a}", "- {u}\n- {a}"]
SORTS = ("a notice;a short text;a message;an e-mail;a letter;a diary entry;a small advertisement;a story;"
         "an announcement;a plan").split(";")


def first_upper(text):
    return text[0].upper() + text[1:]


def day_part(hour):
    return ("at night" if hour < 5 else "in the morning" if hour < 12 else "in the afternoon" if hour < 18
            else "in the evening" if hour < 22 else "at night")


def in_words(hour, minute):
    """8, 45 -> 'quarter to nine'; minutes that are no multiple of five are spelt out: 'eight thirty-seven'."""
    here, after = HOURS[hour % 12], HOURS[(hour + 1) % 12]
    if minute == 0:
        return f"{here} o'clock"
    if minute == 30:
        return f"half past {here}"
    if minute in MINUTES:
        return f"{MINUTES[minute]} past {here}"
    if 60 - minute in MINUTES:
        return f"{MINUTES[60 - minute]} to {after}"
    return f"{here} {number(minute)}"


def number(n):
    small = HOURS[1:] + ["twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
    if n < 20:
        return ("oh " if n < 10 else "") + small[n - 1]
    tens = "twenty thirty forty fifty".split()[n // 10 - 2]
    return tens + (f"-{small[n % 10 - 1]}" if n % 10 else "")


def forms(hour, minute, rng):
    """All ways we write one time of day."""
    half = "am" if hour < 12 else "pm"
    twelve = (hour - 1) % 12 + 1
    out = [f"{hour}:{minute:02d}", f"{hour:02d}:{minute:02d}", f"{twelve}:{minute:02d} {half}",
           f"{in_words(hour, minute)} {day_part(hour)}", in_words(hour, minute),
           f"{twelve}.{minute:02d} {half[0]}.m."]
    if minute == 0:
        out += [f"{twelve} {half}", f"{twelve}{half}", f"{HOURS[hour % 12]} {day_part(hour)}", f"{hour:02d}.00 hours"]
        out += ["noon", "midday"] if hour == 12 else ["midnight"] if hour == 0 else []
    elif minute in TENS:
        out += [f"{HOURS[hour % 12]} {TENS[minute]} {half}", f"{HOURS[hour % 12]} {TENS[minute]} {day_part(hour)}"]
    out = list(dict.fromkeys(out))
    rng.shuffle(out)
    return out


def any_time(rng):
    return rng.randrange(24) if rng.random() < 0.3 else rng.randrange(6, 22), rng.choice([0, 0, 0, 15, 30, 30, 45, rng.randrange(0, 60, 5), rng.randrange(60)])


def time(rng):
    """One time of day, in one form or in two equal ones."""
    first, second, *_ = forms(*any_time(rng), rng)
    return rng.choice(["{0}", "{0}", "{0} ({1})", "{0}, that is {1},", "{0}, in other words {1},", "{0} or {1}", "{0} = {1}"]).format(first, second)


def suffix(day):
    return str(day) + ("th" if 10 < day < 14 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th"))


def days(rng):
    """One way to say on which days."""
    i, j = sorted(rng.sample(range(7), 2))
    d, month = rng.randrange(1, 32), rng.randrange(12)
    date = min(d, LENGTHS[month])
    return rng.choice([
        "every day", "daily", f"on {DAYS[i]}", f"on {DAYS[i]}s", f"every {DAYS[i]}", f"every {DAYS[i]} ({DAYS[i][:3]})",
        f"on {DAYS[i][:3]} and {DAYS[j][:3]}, that is {DAYS[i]} and {DAYS[j]},", f"from {DAYS[i]} to {DAYS[j]} ({DAYS[i][:3]}-{DAYS[j][:3]})",
        f"on {DAYS[i]}s and {DAYS[j]}s", "on weekdays", "on weekdays (Monday to Friday)", "Mon-Fri", "at weekends", "on Saturday and Sunday (the weekend)",
        f"on the {suffix(d)} of the month", f"on the {suffix(d)} ({ORDINALS[d - 1]}) of every month", f"every other {DAYS[i]}",
        f"in {MONTHS[month]}", f"in {MONTHS[month]} (month {month + 1})", f"on {date} {MONTHS[month]}", f"on {MONTHS[month]} {suffix(date)}",
        f"every day except {DAYS[i]}", f"each morning but {DAYS[j]}", f"on {DAYS[i]}, {DAYS[j]} and public holidays", "from Monday to Saturday"])


def often(rng):
    n = rng.choice([2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 45])
    return rng.choice([f"every {n} minutes", f"every {n} hours", "every hour", "hourly", "once a day", "twice a day", "once a week", "weekly",
                       "monthly", "once a month", "every minute", "every half hour (30 minutes)", "every quarter of an hour (15 minutes)",
                       f"every {n} minutes between {time(rng)} and {time(rng)}", "three times a day", "once a quarter", "every year", "yearly"])


def sentence(rng):
    n, e, p, c = rng.choice(NAMES), rng.choice(EVENTS), rng.choice(PLACES), rng.choice(CHORES)
    a, b = sorted(rng.sample(range(5, 24), 2))
    i = rng.randrange(7)
    return rng.choice([
        f"{first_upper(e)} starts at {time(rng)} {days(rng)}.", f"The {p} opens at {time(rng)} {days(rng)}.",
        f"The {p} is open {days(rng)} from {a}:00 to {b}:00, that is {b - a} hours.", f"{n} gets up at {time(rng)} {days(rng)}.",
        f"Remember to {c} at {time(rng)} {days(rng)}.", f"{n} likes to {c} {often(rng)}.", f"{first_upper(e)} runs {often(rng)}.",
        f"{first_upper(days(rng))} at {time(rng)} {n} has to {c}.", f"From {time(rng)} until {time(rng)} the {p} is closed.",
        f"{n} will be at the {p} at {time(rng)} {days(rng)}.", f"pls {c} at {time(rng)}, thx", f"Today is {DAYS[i]}, so tomorrow is {DAYS[(i + 1) % 7]}.",
        f"{MONTHS[a % 12]} comes after {MONTHS[a % 12 - 1]} and has {LENGTHS[a % 12]} days.", f"{first_upper(e)}: {days(rng)}, {time(rng)}.",
        f"The {p} is not open {days(rng)}.", f"{n} works at the {p} {days(rng)}.", f"{DAYS[i]} is day {i + 1} of the week, counting from Monday."])


def change(rng):
    """A plan, made and then changed, with the right outcome: (lines, answer)."""
    things, (h, m), (g, k) = rng.choice(CHORES), any_time(rng), any_time(rng)
    one, two = forms(h, m, rng), forms(g, k, rng)
    i, j = rng.sample(range(7), 2)
    ask = rng.choice([f"Remind me to {things} at {one[0]}.", f"Every {DAYS[i]} at {one[0]}: {things}.", f"Please {things} at {one[0]} every day.",
                      f"I want to {things} at {one[0]} on weekdays."])
    done = rng.choice([f"Done: {things}, {one[1]}.", f"All right, at {one[1]}.", f"OK, {one[1]}.", f"I have noted {one[1]}."])
    kind = rng.randrange(5)
    if kind == 0:
        edit, answer = rng.choice([f"Move it to {two[0]}.", f"Make it {two[0]} instead.", f"No, {two[0]}."]), rng.choice([f"Moved to {two[1]}.", f"Now it is {two[1]}, no longer {one[2]}."])
    elif kind == 1:
        edit, answer = rng.choice([f"Skip {DAYS[j]}s.", f"Not on {DAYS[j]}s.", f"Leave out {DAYS[j]}."]), f"OK, {DAYS[j]} is left out; the other days stay at {one[2]}."
    elif kind == 2:
        late = (h * 60 + m + 60) % 1440
        edit, answer = rng.choice(["One hour later, please.", "Shift it by an hour."]), f"It is now at {forms(late // 60, late % 60, rng)[0]}, one hour after {one[2]}."
    elif kind == 3:
        early = (h * 60 + m - 30) % 1440
        edit, answer = rng.choice(["Half an hour earlier.", "Thirty minutes before that, please."]), f"Half an hour before {one[2]} is {forms(early // 60, early % 60, rng)[0]}."
    else:
        edit, answer = rng.choice(["Cancel it.", "Forget it.", "Delete that one."]), rng.choice(["Cancelled.", "It is off the list.", f"Removed: {things}."])
    return [ask, done, edit], answer


def question(rng):
    """A question about a clock or a calendar with its computed answer."""
    h, m = any_time(rng)
    f = forms(h, m, rng)
    i, d, month = rng.randrange(7), rng.randrange(1, 32), rng.randrange(12)
    later = (h * 60 + m + rng.choice([15, 30, 60, 90, 120])) % 1440
    return rng.choice([
        (f"How do I say {f[0]} in another way?", f"You can say {f[1]}, or {f[2]}."), (f"What is {h:02d}:{m:02d} in words?", f"{in_words(h, m).capitalize()} {day_part(h)}."),
        (f"Is {f[0]} the same as {f[1]}?", "Yes, it is the same time."), (f"What day comes after {DAYS[i]}?", f"{DAYS[(i + 1) % 7]}."),
        (f"What day was it before {DAYS[i]}?", f"{DAYS[i - 1]}."), (f"How many days has {MONTHS[month]}?", f"{LENGTHS[month]}" + (", and 29 in a leap year." if month == 1 else " days.")),
        (f"What does {DAYS[i][:3]} stand for?", f"{DAYS[i][:3]} is short for {DAYS[i]}."), (f"Which month is number {month + 1}?", f"{MONTHS[month]}."),
        (f"Write {suffix(d)} as a word.", f"{ORDINALS[d - 1].capitalize()}."), (f"Write {f[0]} on the 24-hour clock.", f"{h:02d}:{m:02d}."),
        (f"It is {h}:{m:02d}. When is it {later // 60}:{later % 60:02d}?", f"In {(later - h * 60 - m) % 1440} minutes."),
        ("Which days are weekdays and which are the weekend?", "Monday to Friday are weekdays; Saturday and Sunday are the weekend."),
        (f"Is {DAYS[i]} a weekday?", "No, it is a day of the weekend." if i > 4 else "Yes, it is a weekday.")])


def ask_back(rng):
    """An order that lacks something or cannot be met, and the short answer."""
    n, c, meet, p = rng.choice(NAMES), rng.choice(CHORES), rng.choice(MEETINGS), rng.choice(PLACES)
    return rng.choice([
        (f"Remind me to {c}.", rng.choice(["At what time?", "When?", "On which day, and at what time?", "Sure. At what time shall I remind you?"])),
        (f"Book a {meet} with {n}.", rng.choice(["For which day?", "What day suits you?", "How long will it take?"])),
        (f"Move the {meet}.", rng.choice(["To what time?", "To which day?", f"Which {meet} do you mean?"])), (f"Set it for {rng.randrange(1, 12)}.", "In the morning or in the evening?"),
        (f"Wake me at {rng.randrange(25, 60)}:00.", "Sorry, a day has only 24 hours. What time do you mean?"), (f"Call me on the {rng.randrange(32, 60)}th.", "Sorry, no month has that many days. Which day do you mean?"),
        (f"Set an alarm for {rng.randrange(24)}:{rng.randrange(60, 99)}.", "Sorry, an hour has only 60 minutes."), (f"Is the {p} open?", rng.choice(["Which day do you want to go?", f"I do not know the hours of the {p}."])),
        (f"Tell me the password of {n}.", "Sorry, I cannot tell you that."), (f"{first_upper(c)} for me.", "Sorry, I cannot do that myself, but I can remind you."),
        (f"Every {rng.choice(DAYS)}, please.", "What shall I do then, and at what time?"), (f"What will {n} think tomorrow?", "I do not know what someone will think.")])


def one(rng):
    """One prompt: (user, start, shown)."""
    n, o = rng.sample(NAMES, 2)
    kind = rng.random()
    name = lambda text: text.replace("{n}", n).replace("{o}", o)
    if kind < 0.27:
        about = rng.choice([rng.choice(PLACES), rng.choice(EVENTS)[4:], rng.choice(NAMES), "the week", "the day", "opening hours", "a routine", "a timetable"])
        start = " ".join(sentence(rng) for _ in range(rng.choice([1, 1, 2, 3])))
        return f"Write {rng.choice(SORTS)} about {about}." + name(rng.choice(STYLES)), start, "{a}"
    if kind < 0.37:
        task = rng.choice(["Make a timetable for the {p}.", "Write down the opening hours of the {p}.", "Describe the daily routine of {n}.", "Make a to-do list for {n} with times.",
                           "Write a reminder: {c}, {w}.", "Plan the {d} of {n}, hour by hour.", "Write a message to {n}: the {m} is moved to {x}.", "Invite {n} to a {m} {w} at {x}.",
                           "Say politely that the {p} is closed {w}.", "Explain when to {c}.", "Write a note for the door of the {p}.", "Tell {n} at what time {e} starts."])
        user = task.format(p=rng.choice(PLACES), n=n, c=rng.choice(CHORES), w=days(rng).strip(","), d=rng.choice(DAYS), m=rng.choice(MEETINGS), x=time(rng).strip(","), e=rng.choice(EVENTS))
        return user, "", name(rng.choice(CHAT + ["{a}"] * 4))
    if kind < 0.50:
        (ask, done, edit), answer = change(rng)
        talk = rng.choice([f"{n}: {ask}\n{o}: {done}\n{n}: {edit}\n{o}: {answer}\n{n}:", f"Q: {ask}\nA: {done}\nQ: {edit}\nA: {answer}\nQ:", f"User: {ask}\nAssistant: {done}\nUser: {edit}\nAssistant: {answer}\nUser:"])
        return "Write a short dialogue about a change of plan.", talk, "{a}"
    if kind < 0.58:
        say = rng.choice([sentence(rng), ask_back(rng)[0], f"What time does {rng.choice(EVENTS)} start?", f"Can we move the {rng.choice(MEETINGS)} to {time(rng)}"])
        return f"Write a short dialogue between {n} and {o}.", f"{n}: {say}\n{o}:", "{a}"
    if kind < 0.70:
        user, answer = question(rng) if rng.random() < 0.7 else ask_back(rng)
        return user, answer, name(rng.choice(CHAT))
    user = rng.choice(TASKS).replace("{t}", rng.choice(TOPICS)) + name(rng.choice(STYLES))
    return user, "", name(rng.choice(CHAT + ["{a}"] * 8))


def many(count, seed):
    rng = random.Random(seed)
    return [one(rng) for _ in range(count)]
