package draft

import (
	"strings"
	"unicode"
)

// verb is what the name of a tool says that it does.
type verb uint8

const (
	unclear verb = iota
	list
	get
	create
	put // create, or replace what is there
	patch
	remove
	act // changes something, nobody knows what
)

var verbs = map[string]verb{
	"list": list, "search": list, "find": list, "query": list, "browse": list, "lookup": list, "filter": list, "enumerate": list,
	"get": get, "read": get, "describe": get, "fetch": get, "show": get, "view": get, "retrieve": get, "open": get,
	"load": get, "check": get, "count": get, "lookat": get, "inspect": get, "preview": get, "exists": get, "download": get,
	"create": create, "add": create, "insert": create, "new": create, "register": create, "make": create, "book": create,
	"schedule": create, "append": create, "post": create,
	"write": put, "save": put, "put": put, "upload": put, "store": put, "upsert": put, "replace": put,
	"update": patch, "modify": patch, "edit": patch, "set": patch, "patch": patch, "change": patch, "rename": patch,
	"delete": remove, "remove": remove, "drop": remove, "cancel": remove, "clear": remove, "erase": remove, "purge": remove,
	"send": act, "pay": act, "transfer": act, "move": act, "grant": act, "revoke": act, "share": act, "invite": act, "approve": act,
	"deny": act, "start": act, "stop": act, "run": act, "execute": act, "call": act, "submit": act, "publish": act, "close": act,
	"enable": act, "disable": act, "lock": act, "unlock": act, "return": act, "exchange": act, "withdraw": act, "deposit": act,
	"reserve": act, "reset": act, "restart": act, "reply": act, "forward": act, "control": act, "execute_command": act,
	"generate": act, "shutdown": act, "turn": act, "order": act, "copy": act, "install": act, "uninstall": act, "sign": act,
}

// split takes a name apart: get_user-info, GetUserInfo and getUserInfo are get, user,
// info.
func split(name string) []string {
	var words []string
	var word []rune
	end := func() {
		if len(word) > 0 {
			words = append(words, strings.ToLower(string(word)))
			word = word[:0]
		}
	}
	runes := []rune(name)
	for i, r := range runes {
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			end()
			continue
		}
		// An upper-case letter begins a word, but for inside of an abbreviation.
		if unicode.IsUpper(r) && i > 0 && (!unicode.IsUpper(runes[i-1]) || i+1 < len(runes) && unicode.IsLower(runes[i+1])) {
			end()
		}
		word = append(word, r)
	}
	end()
	return words
}

// verbOf is the first verb among the words of a name, with the words behind it, or, if
// there are none, before it.
func verbOf(words []string) (verb, []string) {
	for i, w := range words {
		v, known := verbs[w]
		if !known {
			continue
		}
		if i+1 < len(words) {
			return v, words[i+1:]
		}
		return v, words[:i]
	}
	return unclear, words
}

// Reads reports whether the name of a tool sounds as if it only read. Prefixes such as
// the name of an app are passed over; a name with several verbs reads only if all of
// them do. It is never enough to let a tool pass for a read: it can only raise what
// annotations say.
func Reads(name string) bool {
	found := false
	for _, w := range split(name) {
		switch verbs[w] {
		case unclear:
		case list, get:
			found = true
		default:
			return false
		}
	}
	return found
}

// singular of a noun, near enough to find what belongs together.
func singular(w string) string {
	switch {
	case len(w) > 3 && strings.HasSuffix(w, "ies"):
		return w[:len(w)-3] + "y"
	case len(w) > 4 && (strings.HasSuffix(w, "sses") || strings.HasSuffix(w, "xes") || strings.HasSuffix(w, "ches") || strings.HasSuffix(w, "shes")):
		return w[:len(w)-2]
	case len(w) > 2 && strings.HasSuffix(w, "s") && !strings.HasSuffix(w, "ss") && !strings.HasSuffix(w, "us") && !strings.HasSuffix(w, "is"):
		return w[:len(w)-1]
	default:
		return w
	}
}

func plural(w string) string {
	switch {
	case singular(w) != w:
		return w
	case strings.HasSuffix(w, "y") && len(w) > 1 && !strings.ContainsRune("aeiou", rune(w[len(w)-2])):
		return w[:len(w)-1] + "ies"
	case strings.HasSuffix(w, "s") || strings.HasSuffix(w, "x") || strings.HasSuffix(w, "ch") || strings.HasSuffix(w, "sh"):
		return w + "es"
	default:
		return w + "s"
	}
}

// tableName of words: user, info becomes user_infos.
func tableName(words []string) string {
	if len(words) == 0 {
		return ""
	}
	words = append([]string(nil), words...)
	words[len(words)-1] = plural(words[len(words)-1])
	name := strings.Join(words, "_")
	if name == "" || name[0] < 'a' || name[0] > 'z' || len(name) > 60 {
		return ""
	}
	for _, r := range name {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '_' {
			return ""
		}
	}
	return name
}

// same reports whether two names are one noun.
func sameNoun(a, b string) bool {
	wa, wb := split(a), split(b)
	if len(wa) != len(wb) || len(wa) == 0 {
		return false
	}
	for i := range wa {
		if singular(wa[i]) != singular(wb[i]) {
			return false
		}
	}
	return true
}
