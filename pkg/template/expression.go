package template

import (
	"fmt"
	"slices"
	"strings"
)

const (
	maxDepth = 64  // how deep expressions nest
	maxLinks = 512 // operators of a tag that nest what stands before them
)

// parser reads the expressions of one tag and writes them as expressions of the
// engine in which everything that could cost much is a call of a guarded
// function. By the grammar of Jinja: conditional, or, and, not, comparison,
// sum, concatenation, product, unary, power, postfix, primary.
type parser struct {
	lexemes []lexeme
	at      int
	depth   int
	links   int
	renamed map[string]string // names that stand for other expressions
}

func (p *parser) peek() lexeme {
	if p.at < len(p.lexemes) {
		return p.lexemes[p.at]
	}
	return lexeme{}
}

func (p *parser) isSymbol(texts ...string) bool {
	l := p.peek()
	return l.kind == lexSymbol && slices.Contains(texts, l.text)
}

func (p *parser) isName(texts ...string) bool {
	l := p.peek()
	return l.kind == lexName && slices.Contains(texts, l.text)
}

// accept skips a symbol if it is next.
func (p *parser) accept(symbol string) bool {
	if p.isSymbol(symbol) {
		p.at++
		return true
	}
	return false
}

// acceptName skips a keyword if it is next.
func (p *parser) acceptName(name string) bool {
	if p.isName(name) {
		p.at++
		return true
	}
	return false
}

func (p *parser) expect(symbol string) error {
	if !p.accept(symbol) {
		return p.unexpected("want " + symbol)
	}
	return nil
}

func (p *parser) unexpected(why string) error {
	if l := p.peek(); l.kind != lexEnd {
		return fmt.Errorf("%w: unexpected %.40q: %s", ErrTemplate, l.text, why)
	}
	return fmt.Errorf("%w: unexpected end of tag: %s", ErrTemplate, why)
}

// keywords cannot be variables.
var keywords = []string{"and", "or", "not", "in", "is", "if", "else", "elif", "for", "recursive"}

// name reads an identifier.
func (p *parser) name() (string, error) {
	l := p.peek()
	if l.kind != lexName || slices.Contains(keywords, l.text) {
		return "", p.unexpected("want a name")
	}
	p.at++
	return l.text, nil
}

// expression reads a whole expression.
func (p *parser) expression() (string, error) {
	if p.depth++; p.depth > maxDepth {
		return "", fmt.Errorf("%w: expression nested more than %d deep", ErrBudget, maxDepth)
	}
	defer func() { p.depth-- }()
	value, err := p.or()
	if err != nil || !p.acceptName("if") {
		return value, err
	}
	condition, err := p.or()
	if err != nil {
		return "", err
	}
	otherwise := "__undefined"
	if p.acceptName("else") {
		if otherwise, err = p.expression(); err != nil {
			return "", err
		}
	}
	return "(" + value + " if " + condition + " else " + otherwise + ")", nil
}

func (p *parser) or() (string, error) { return p.logical("or", p.and) }

func (p *parser) and() (string, error) { return p.logical("and", p.not) }

func (p *parser) logical(word string, operand func() (string, error)) (string, error) {
	left, err := operand()
	for err == nil && p.acceptName(word) {
		if err = p.link(); err != nil {
			break
		}
		var right string
		right, err = operand()
		left = "(" + left + " " + word + " " + right + ")"
	}
	return left, err
}

func (p *parser) not() (string, error) {
	count := 0
	for p.acceptName("not") {
		count++
	}
	value, err := p.comparison()
	if count > 0 {
		value = "(not " + value + ")"
	}
	if count > 0 && count%2 == 0 {
		value = "(not " + value + ")"
	}
	return value, err
}

// comparison reads a chain of comparisons, which all have to hold.
func (p *parser) comparison() (string, error) {
	left, err := p.sum()
	if err != nil {
		return "", err
	}
	chain := []string{left}
	for {
		op := p.comparator()
		if op == "" {
			break
		}
		right, err := p.sum()
		if err != nil {
			return "", err
		}
		chain = append(chain, quote(op), right)
	}
	switch len(chain) {
	case 1:
		return left, nil
	case 3:
		return call("__compare", chain[1], chain[0], chain[2]), nil
	}
	return call("__chain", chain...), nil
}

// comparator reads an operator of comparison, or returns "".
func (p *parser) comparator() string {
	if p.isSymbol("==", "!=", "<", ">", "<=", ">=") || p.isName("in") {
		p.at++
		return p.lexemes[p.at-1].text
	}
	if p.isName("not") && p.at+1 < len(p.lexemes) && p.lexemes[p.at+1] == (lexeme{lexName, "in"}) {
		p.at += 2
		return "not in"
	}
	return ""
}

// sum reads operands of + and -. A run of + becomes one call.
func (p *parser) sum() (string, error) {
	first, err := p.concatenation()
	terms := []string{first}
	for err == nil && p.isSymbol("+", "-") {
		op := p.peek().text
		p.at++
		var right string
		if right, err = p.concatenation(); op == "+" {
			terms = append(terms, right)
			continue
		}
		if err == nil {
			err = p.link()
		}
		terms = []string{call("__binary", quote("-"), total(terms), right)}
	}
	return total(terms), err
}

// total writes the sum of terms.
func total(terms []string) string {
	if len(terms) == 1 {
		return terms[0]
	}
	return call("__sum", terms...)
}

// concatenation reads operands of ~, which become one call.
func (p *parser) concatenation() (string, error) {
	first, err := p.product()
	if err != nil || !p.isSymbol("~") {
		return first, err
	}
	parts := []string{first}
	for p.accept("~") {
		part, err := p.product()
		if err != nil {
			return "", err
		}
		parts = append(parts, part)
	}
	return call("__concat", parts...), nil
}

// product reads operands of * and its kin, which associate to the left.
func (p *parser) product() (string, error) {
	left, err := p.unary()
	for err == nil && p.isSymbol("*", "/", "//", "%") {
		op := p.peek().text
		p.at++
		if err = p.link(); err != nil {
			break
		}
		var right string
		right, err = p.unary()
		left = call("__binary", quote(op), left, right)
	}
	return left, err
}

// link counts an operator that nests what stands before it.
func (p *parser) link() error {
	if p.links++; p.links > maxLinks {
		return fmt.Errorf("%w: more than %d operators in a tag", ErrBudget, maxLinks)
	}
	return nil
}

func (p *parser) unary() (string, error) {
	negative := false
	for p.isSymbol("-", "+") {
		negative = negative != (p.peek().text == "-")
		p.at++
	}
	value, err := p.postfix()
	if err == nil && p.accept("**") {
		var exponent string
		exponent, err = p.postfix()
		value = call("__binary", quote("**"), value, exponent)
	}
	if negative {
		value = call("__binary", quote("-"), "0", value)
	}
	return value, err
}

// call writes a call of the engine.
func call(function string, args ...string) string {
	return function + "(" + strings.Join(args, ", ") + ")"
}

var quoter = strings.NewReplacer("\\", "\\\\", "'", "\\'", "\n", "\\n", "\t", "\\t")

// quote writes a string literal of the engine.
func quote(s string) string { return "'" + quoter.Replace(s) + "'" }
