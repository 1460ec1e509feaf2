"""What people schedule, for the wide wordings: errands, events, programs, and the sentences around them."""

ACTS = (
    (("back up", "dump", "copy", "snapshot", "archive", "sync", "replicate", "export", "verify", "compress", "encrypt"),
     ("the database", "the production db", "our postgres", "the orders table", "customer data", "the file server", "my photos",
      "my documents", "the home folder", "/var/www", "the git repos", "the logs", "the S3 bucket", "the config files",
      "user uploads", "the mail archive", "the NAS", "the shop data", "the weekly figures")),
    (("check", "monitor", "poll", "ping", "probe", "watch", "scan", "look at", "verify", "test"),
     ("the web server", "the API", "the site", "the queue", "the inbox", "free disk space", "the backups", "the sensors",
      "the water level", "the server room temperature", "the payment gateway", "stock levels", "the greenhouse", "the feeds",
      "the certificates", "the price list", "the status page", "open tickets", "the printers", "the mailbox")),
    (("send", "email", "mail", "post", "share", "forward", "publish", "print", "upload"),
     ("the sales report", "the weekly summary", "the daily digest", "the stock list", "the KPI sheet", "an uptime report",
      "the invoices", "a status update", "the newsletter", "payment reminders", "the shift plan", "the lunch menu",
      "the attendance list", "the exchange rates", "a weather forecast", "the test results", "the minutes", "our blog post",
      "the order confirmation", "the monthly statement", "a thank-you note")),
    (("turn on", "turn off", "switch on", "switch off", "start", "stop", "open", "close", "lock", "dim", "reset"),
     ("the heating", "the lights", "the sprinkler", "the coffee machine", "the boiler", "the garage door", "the blinds",
      "the pool pump", "the fan", "the AC", "the oven", "the washing machine", "the robot vacuum", "the alarm",
      "the porch light", "the server", "the screens", "the radio", "the camera", "the shop sign", "the router", "the wifi")),
    (("clear", "purge", "rebuild", "refresh", "rotate", "reload", "recompute", "update", "restart", "warm up", "prune"),
     ("the cache", "the temp folder", "the search results", "the logs", "the index", "the dashboard", "the session store",
      "the proxy", "the containers", "nginx", "the worker", "the sitemap", "old sessions", "the recycle bin", "the rankings",
      "the exchange rates", "the model", "the firewall rules", "the docker images", "the materialized views")),
    (("remind me to", "remind us to", "remind the team to", "tell me to", "ping me to", "nudge me to", "alert me to",
      "don't let me forget to", "remind everybody to", "reminder to", "remind my son to", "i need to", "we should"),
     ("take my pills", "stand up", "drink some water", "go to the gym", "do yoga", "practise the piano", "pay the rent",
      "submit the hours", "take out the recycling", "pick up the children", "meditate", "study Spanish", "phone grandma",
      "buy milk", "read a chapter", "charge my phone", "walk the dog", "log my hours", "review pull requests",
      "clean the fridge", "change the filter", "pack the lunch boxes", "leave for the train", "check the tyres",
      "order supplies", "lock the office", "look out of the window", "weigh myself", "do the dishes", "top up the card")),
    (("water", "feed", "walk", "look after"), ("the roses", "the tomatoes", "the lawn", "the cat", "the dog", "the horses",
      "the rabbits", "the ducks", "the goldfish", "the office plants", "the balcony plants", "the hamster")),
)
STEMS = ("backup", "cleanup", "sync", "import", "export", "report", "fetch", "ingest", "rotate", "migrate", "publish",
    "deploy", "monitor", "notify", "purge", "archive", "train", "scrape", "validate", "billing", "etl", "prune_cache",
    "healthcheck", "update-feeds", "send_mails", "nightly", "crawl", "thumbnails", "load_prices", "rebuild", "renew")
ENDS = (".sh", ".py", ".js", ".php", ".rb", ".pl", "", ".sql", ".bat")
FOLDERS = ("", "", "", "./", "/opt/app/", "/usr/local/bin/", "~/bin/", "scripts/")
RUNS = ("run", "start", "execute", "launch", "call", "trigger", "kick off", "rerun", "python", "bash", "job")
EVENTS = ("standup", "the team meeting", "choir practice", "yoga class", "gym", "staff meeting", "guitar lesson", "bin day",
    "payroll", "invoice run", "db backup", "log rotation", "health check", "virus scan", "stock count", "fire drill",
    "the school bell", "board call", "one-on-one with Anna", "sprint planning", "retro", "coffee break", "lunch", "dinner",
    "book club", "football training", "swimming lesson", "shift handover", "pills", "vitamins", "medication", "my alarm",
    "price update", "newsletter", "the report", "billing", "data export", "sitemap refresh", "server restart", "cert renewal",
    "rent", "mortgage payment", "salary", "my aunt's birthday", "our anniversary", "french lesson", "bike ride", "prayer",
    "the market opens", "the office closes", "the bus leaves", "doors open", "garbage collection", "night backup", "the ferry",
    "radio show", "homework club", "therapy", "haircut", "quiz night", "cinema", "church", "ballet", "window cleaning",
    "laundry", "call with the client", "demo", "deployment", "maintenance window", "smoke test", "index rebuild", "inventory")
OPENERS = ("",) * 30 + (
    "hi, ", "hey, ", "hello, ", "hi there, ", "ok, ", "so ", "um, ", "well, ", "quick one: ", "new one: ", "please ", "pls ",
    "kindly ", "can you ", "could you ", "can u ", "would you ", "could you please ", "i want to ", "i'd like to ",
    "we want to ", "we'd like to ", "i need you to ", "i would like you to ", "need to ", "have to ", "got to ", "must ",
    "for work: ", "for the team: ", "for our shop: ", "at home: ", "new requirement: ", "task: ", "note to self: ", "dear bot, ",
    "my wife wants me to ", "my manager asked me to ", "the client asked us to ", "the doctor told me to ", "we agreed to ",
    "help me to ", "make sure to ", "be sure to ", "let's ", "set it up to ", "configure it to ", "i was wondering if you could ",
    "it should ", "the script should ", "the system has to ", "our server must ", "you have to ", "always ", "automatically ",
)
CLOSERS = ("",) * 24 + (
    " thanks", ", thanks", " thx", " please", ", please", " pls", " ty", ", cheers", ", thank you", ". Thanks!", " :)",
    ", ok?", ", that's all", ", nothing else", " for me", " for us", " on the server", " on prod", " in the office", " at home",
    ", before everybody comes in", ", when it is quiet", ", so that nobody forgets", " if possible", ", can you do that?",
    " without fail", " again", " automatically", " as usual", ", is that possible?", " from now on",
)
STORIES = (
    "I run a small bakery.", "We are a team of five.", "I always forget things.", "My server is old.", "We moved to a new office.",
    "It is for the greenhouse.", "The kids need it.", "I have a raspberry pi.", "This is for our club.", "We sell flowers.",
    "I'm new to linux.", "The old job broke.", "It's a simple job.", "My plants keep dying.", "Our logs get too big.",
)
# {p} is the schedule, {t} a task in the base form, {e} an event.
FRAMES = (
    "{t} {p}", "{t} {p}", "{t} {p}", "{p} {t}", "{p}, {t}", "{t}, {p}", "{p}: {t}", "{t}: {p}", "{t} - {p}", "{p} - {t}",
    "{p} {t}", "{p} i {t}",
)
LOOSE = (
    "{e} {p}", "{e} {p}", "{e}: {p}", "{e}, {p}", "{p} {e}", "{p}, {e}", "{p} - {e}", "{p}: {e}", "{e} - {p}", "{e} reminder {p}",
    "reminder for {e} {p}", "{e} is {p}", "we have {e} {p}", "{e} happens {p}", "{e} takes place {p}", "{e} runs {p}",
    "alarm for {e} {p}", "{e} should start {p}", "{e} starts {p}", "i have {e} {p}, remind me", "{p} there is {e}",
    "{e} begins {p}", "{e} every time {p}", "notify me of {e} {p}", "{e} goes {p}", "{e} (reminder) {p}",
    "what would the cron for {p} look like?", "how do I write {p} in cron?", "how would you express {p}?",
    "which cron runs {p}?", "I can't figure out the cron for {p}", "cron syntax for {p}", "cron string for {p}",
    "crontab line: {p}", "cronjob {p}", "as cron: {p}", "{p} as cron", "{p} in cron?", "{p} cron", "{p} = ?", "in cron: {p}",
    "convert to cron: {p}", "turn this into cron: {p}", "cron please: {p}", "expression for {p}", "cron job that runs {p}",
    "it needs to happen {p}", "must run {p}", "to be run {p}", "to be executed {p}", "has to go out {p}", "should go off {p}",
    "set it for {p}", "set the alarm for {p}", "set the timer {p}", "program it {p}", "the timer should fire {p}",
    "my alarm should ring {p}", "wake me {p}", "call me {p}", "execution: {p}", "when: {p}", "time: {p}", "schedule: {p}",
    "frequency: {p}", "runs {p}", "repeat {p}", "repeats {p}", "recurring {p}", "trigger {p}", "fire {p}", "{p} ok?", "{p} thx",
    "execute this {p}", "let's do {p}", "i think {p}", "maybe {p}", "we said {p}", "always {p}", "it goes off {p}", "open {p}",
    "closed {p}", "available {p}", "{p}, nothing else", "I'd say {p}", "just {p}", "simply {p}", "{p} works for me",
    "my script should go {p}", "want it to go {p}", "it's due {p}", "due {p}", "send it out {p}", "again {p}", "only {p}",
)
SHORTENED = (
    ("every", ("ev", "evry", "evr", "evey", "eveery")), ("minutes", ("min", "mins", "minuts", "mn", "minutse")),
    ("hours", ("hrs", "hr", "houres")), ("weekdays", ("wkdays", "weekdys", "weekday", "week-days")),
    ("weekends", ("wkends", "weekend", "week-ends", "weeknds")), ("and", ("&", "n", "+", "adn")), ("through", ("thru", "throuhg")),
    ("please", ("pls", "plz", "pleas")), ("morning", ("mornin", "moring", "morn")), ("evening", ("evning", "eveing", "eve")),
    ("afternoon", ("aftrnoon", "arvo", "afternon")), ("until", ("til", "untill", "till")), ("between", ("btw", "betwn", "bewteen")),
    ("month", ("mo", "mth", "monht")), ("daily", ("dayly", "daliy", "dialy")), ("hourly", ("houly", "hourley")),
    ("midnight", ("midnite", "midnght")), ("quarter", ("quater", "quartr")), ("weekly", ("wkly", "weekley")), ("at", ("@",)),
    ("monthly", ("montly", "mthly")), ("except", ("exc", "ecxept")), ("saturday", ("satrday", "sat")), ("sunday", ("sun", "sundy")),
    ("monday", ("mon", "monaday")), ("tuesday", ("tues", "tusday")), ("wednesday", ("weds", "wendsday")), ("thursday", ("thurs", "thirsday")),
    ("friday", ("fri", "frday")), ("noon", ("nooon", "nooN")), ("o'clock", ("oclock", "o clock", "o' clock")),
)
