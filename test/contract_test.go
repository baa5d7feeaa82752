package test

import (
	"bufio"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The sections of docs/semantics.md that promise nothing: what is before the first, and these.
var promisesNothing = []string{"", "The problem", "Nouns", "What is not there yet", tableOfTests}

const tableOfTests = "Which test shows it"

// TestContract holds docs/semantics.md against its own table: each sentence, item and table row has one row there, in the order of the
// text, and the tests that it names exist and are not always skipped. That they show it is for people to see.
func TestContract(t *testing.T) {
	text, err := os.ReadFile("../docs/semantics.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range checkContract(string(text), newTestFinder("..").find) {
		t.Error(err)
	}
}

// TestContractFinds: what TestContract is for.
func TestContractFinds(t *testing.T) {
	const sentences = "# X\n\nIntro.\n\n## A\n\nOne is `so`. Two\nis **more** (so `0.5 s` it is.) (That: **later**.) **Head.** Three:\n\n- an item; e.g. this. And\n  that\n\n| h | i |\n|---|---|\n| a | b |\n"
	const head = "\n## " + tableOfTests + "\n\n"
	rows := []string{"One is", "Two is", "Three", "an item", "And that", "a · b"}
	table := func(rows ...string) string {
		s := "### A\n\n| | |\n|---|---|\n"
		for _, r := range rows {
			s += "| " + r + " … | room.TestIt |\n"
		}
		return s
	}
	without := func(i int) []string { return append(append([]string(nil), rows[:i]...), rows[i+1:]...) }
	exists := func(name string) error {
		if name != "room.TestIt" {
			return fmt.Errorf("%s is not there", name)
		}
		return nil
	}
	for name, test := range map[string]struct{ text, want string }{
		"sound":                    {sentences + head + table(rows...), ""},
		"no row at the beginning":  {sentences + head + table(without(0)...), "as its first row"},
		"no row in the middle":     {sentences + head + table(without(4)...), `behind the row "an item"`},
		"no row at the end":        {sentences + head + table(without(5)...), `behind the row "And that"`},
		"no row for a new item":    {strings.Replace(sentences, "- an", "- New\n- an", 1) + head + table(rows...), `"New"`},
		"no sentence":              {strings.Replace(sentences, "- an item; e.g. this. And", "- And", 1) + head + table(rows...), `"an item" begins no sentence`},
		"no sentence at the end":   {sentences + head + table(append(rows, "more")...), `"more" begins no sentence`},
		"another order":            {sentences + head + table("Two is", "One is", "Three", "an item", "And that", "a · b"), `"One is" begins no sentence`},
		"too short":                {strings.Replace(sentences, "Two", "One is not. Two", 1) + head + table(rows...), "begins more than one"},
		"no such test":             {sentences + head + strings.Replace(table(rows...), "TestIt", "TestThat", 1), "room.TestThat is not there"},
		"no test":                  {sentences + head + strings.Replace(table(rows...), "room.TestIt", "", 1), "names no test"},
		"a section without rows":   {sentences + "\n## B\n\nMore.\n" + head + table(rows...), `section "B"`},
		"rows without a section":   {sentences + head + table(rows...) + "\n### B\n\n| | |\n|---|---|\n| So … | room.TestIt |\n", `no section "B"`},
		"a cut word in the middle": {sentences + head + strings.Replace(table(rows...), "Two is", "Two i", 1), `"Two i" begins no sentence`},
	} {
		errs := checkContract(test.text, exists)
		if test.want == "" && len(errs) > 0 || test.want != "" && (len(errs) == 0 || !strings.Contains(fmt.Sprint(errs), test.want)) {
			t.Errorf("%s: %v, want %q", name, errs, test.want)
		}
	}
	finder := newTestFinder("..")
	for name, ok := range map[string]bool{
		"test.TestContract": true, "layout.TestTranscripts/leases": true, "cmd/holdfast.TestScript/break": true, "test.TestBreak/through the mount": true,
		"test.TestNothing": false, "nowhere.TestContract": false, "layout.TestTranscripts/no such script": false, "TestContract": false,
		"layout.TestContract": false, "test.checkContract": false,
	} {
		if err := finder.find(name); (err == nil) != ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// checkContract says what is wrong between the sentences of a document and the table at its end; exists says what is wrong with the name of a test.
func checkContract(text string, exists func(name string) error) (errs []error) {
	body, table, _ := strings.Cut(text, "\n## "+tableOfTests+"\n")
	sections := sectionsOf(body, "## ")
	rows := make(map[string][]row)
	for _, s := range sectionsOf(table, "### ") {
		part := rowsOf(s.lines)
		rows[s.title] = append(rows[s.title], part...)
		for _, r := range part {
			errs = append(errs, r.check(exists)...)
		}
	}
	for _, s := range sections {
		if !slices.Contains(promisesNothing, s.title) {
			errs = append(errs, checkSection(s.title, unitsOf(s.lines), rows[s.title])...)
		}
		delete(rows, s.title)
	}
	for title := range rows {
		errs = append(errs, fmt.Errorf("%q: there is no section %q", tableOfTests, title))
	}
	return errs
}

// A row says which tests show the sentence that begins so.
type row struct{ begin, tests string }

func rowsOf(lines []string) (rows []row) {
	for _, line := range lines {
		if cells := tableCells(line); len(cells) == 2 && cells[0] != "" {
			rows = append(rows, row{plain(strings.TrimSuffix(cells[0], "…")), cells[1]})
		}
	}
	return rows
}

func (r row) check(exists func(name string) error) (errs []error) {
	if r.tests == "" {
		return []error{fmt.Errorf("row %q names no test", r.begin)}
	}
	for name := range strings.SplitSeq(r.tests, ",") {
		if err := exists(plain(name)); err != nil {
			errs = append(errs, fmt.Errorf("row %q: %w", r.begin, err))
		}
	}
	return errs
}

func (r row) begins(unit string) bool {
	rest, ok := strings.CutPrefix(unit, r.begin)
	return ok && r.begin != "" && !startsInWord.MatchString(rest)
}

var startsInWord = regexp.MustCompile(`^[\pL\pN]`)

// checkSection walks units and rows together. Where they differ, a row that begins nothing from here on is wrong, and else the unit has none.
func checkSection(title string, units []string, rows []row) (errs []error) {
	place := "as its first row"
	for len(units) > 0 || len(rows) > 0 {
		switch {
		case len(units) > 0 && len(rows) > 0 && rows[0].begins(units[0]):
			place = fmt.Sprintf("behind the row %q", rows[0].begin)
			if slices.ContainsFunc(units[1:], func(u string) bool { return u != units[0] && rows[0].begins(u) }) {
				errs = append(errs, fmt.Errorf("section %q: the row %q begins more than one sentence: say more of it", title, rows[0].begin))
			}
			units, rows = units[1:], rows[1:]
		case len(rows) > 0 && !slices.ContainsFunc(units, rows[0].begins):
			errs = append(errs, fmt.Errorf("section %q: the row %q begins no sentence, or none at its place: remove, correct or move it", title, rows[0].begin))
			rows = rows[1:]
		default:
			errs = append(errs, fmt.Errorf("section %q: no row for the sentence %q\nAdd to its part of %q, %s:\n| %s … | room.TestThatFailsIfItIsFalse |",
				title, units[0], tableOfTests, place, beginning(units[0])))
			units = units[1:]
		}
	}
	return errs
}

// beginning is what a row may say of a sentence.
func beginning(unit string) string {
	words := strings.Fields(unit)
	return strings.TrimRight(strings.Join(words[:min(len(words), 6)], " "), ".,:;")
}

// A section is what stands below a heading.
type section struct {
	title string
	lines []string
}

func sectionsOf(text, mark string) []section {
	sections := []section{{}}
	for sc := bufio.NewScanner(strings.NewReader(text)); sc.Scan(); {
		if title, ok := strings.CutPrefix(sc.Text(), mark); ok {
			sections = append(sections, section{title: title})
			continue
		}
		s := &sections[len(sections)-1]
		s.lines = append(s.lines, sc.Text())
	}
	return sections
}

var item = regexp.MustCompile(`^\s*(- |\d+\. )`)

// unitsOf splits lines into what can be true or false by itself: the sentences of paragraphs and items, and the rows of tables.
func unitsOf(lines []string) (units []string) {
	var block []string
	add := func(unit string) {
		if !onlyBold.MatchString(unit) && !later.MatchString(unit) {
			units = append(units, plain(unit))
		}
	}
	end := func() {
		for _, s := range sentences(strings.Join(block, " ")) {
			add(s)
		}
		block = nil
	}
	for i, line := range lines {
		switch {
		case strings.HasPrefix(line, "|"):
			end()
			head := i+1 < len(lines) && strings.HasPrefix(lines[i+1], "|-")
			if !head && !strings.HasPrefix(line, "|-") {
				add(strings.Join(tableCells(line), " · "))
			}
		case strings.TrimSpace(line) == "":
			end()
		case item.MatchString(line):
			end()
			block = append(block, item.ReplaceAllString(line, ""))
		default:
			block = append(block, line)
		}
	}
	end()
	return units
}

// A sentence ends at a dot that is followed by space and a capital letter, or by markup or a parenthesis: names of code begin small.
var sentenceEnd = regexp.MustCompile("[.?!][)*\"]*\\s+([\\p{Lu}`*(\\[])")

func sentences(text string) (list []string) {
	begin := 0
	for _, m := range sentenceEnd.FindAllStringSubmatchIndex(text, -1) {
		list = append(list, text[begin:m[2]])
		begin = m[2]
	}
	return append(list, text[begin:])
}

// What is bold as a whole is a heading, and what is marked so is a promise for later.
var (
	onlyBold = regexp.MustCompile(`^\s*(\*\*[^*]*\*\*\s*)?$`)
	later    = regexp.MustCompile(`\*\*\(?later\)?\*\*`)
)

var link = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)

// plain takes markup off, so that a row may have it or not.
func plain(s string) string {
	s = link.ReplaceAllString(s, "$1")
	s = strings.NewReplacer("`", "", "*", "").Replace(s)
	return strings.Join(strings.Fields(s), " ")
}

// tableCells returns nil for what is no row.
func tableCells(line string) []string {
	line = strings.TrimSpace(line)
	if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|-") {
		return nil
	}
	cells := strings.Split(strings.Trim(line, "|"), "|")
	for i := range cells {
		cells[i] = strings.TrimSpace(cells[i])
	}
	return cells
}
