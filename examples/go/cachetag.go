// Package cachetag is a cache in front of PostgreSQL that is never wrong for long: cachetag with redigo.
//
//	cache := cachetag.New(pool)
//	page, err := cache.GetOrSet(ctx, "page:product:42", func(ctx context.Context) (value []byte, tags []string, err error) {
//		err = db.QueryRowContext(ctx, query, 42).Scan(&value, pq.Array(&tags))
//		return
//	}, cachetag.Options{})
//
// The tags come from the query that makes the value; a nil value is cached too: there is nothing.
//
//	SELECT (SELECT json_build_object('name', name) FROM products WHERE id = $1), ARRAY[cachetag.tag('product', $1::int)]
package cachetag

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gomodule/redigo/redis"
)

// Loader computes a value and what it depends on.
type Loader func(ctx context.Context) (value []byte, tags []string, err error)

// Options of GetOrSet; the zero value is good.
type Options struct {
	TTL       time.Duration // 10 minutes if zero
	AbsentTTL time.Duration // of nil; 30 seconds if zero
	Fresh     time.Duration // after it the value is served while one caller recomputes it; never if zero
	MaxLag    time.Duration // oldest answer accepted; the daemon's if zero
	AtLeast   string        // Position after a commit: a hit covers that commit
	Patience  time.Duration // how long to wait for another caller that computes; 2 seconds if zero
	// Covers asks the session that loads, SELECT cachetag.covers(token): give it where the loader may run in a transaction that has
	// written or is REPEATABLE READ, or on a standby.
	Covers func(ctx context.Context, token string) (bool, error)
}

// Answer is what the cache knows of a key.
type Answer struct {
	State   string // hit, stale, early, miss, wait or bypass
	Payload []byte
	Token   string // what the reader is known to see; goes with the put
	Lease   string // not empty: this caller should recompute
	Age     time.Duration
}

// Served tells whether Payload is a value, nil included.
func (a Answer) Served() bool { return a.State == "hit" || a.State == "stale" || a.State == "early" }

// Cache may be used by many goroutines.
type Cache struct {
	pool   *redis.Pool
	prefix string
	// Refresh runs a function later, for stale entries; a goroutine by default. It does not end with the request.
	Refresh func(func(context.Context) error)
}

// New makes a cache of the namespace that the daemon feeds.
func New(pool *redis.Pool) *Cache { return NewIn(pool, "ct") }

// NewIn makes a cache of another namespace.
func NewIn(pool *redis.Pool, namespace string) *Cache {
	refresh := func(fill func(context.Context) error) { go func() { _ = fill(context.Background()) }() }
	return &Cache{pool: pool, prefix: "{" + namespace + "}:e:", Refresh: refresh}
}

// Position is, after a COMMIT, what Options.AtLeast wants.
func Position(ctx context.Context, db *sql.DB) (position string, err error) {
	err = db.QueryRowContext(ctx, "SELECT cachetag.position()").Scan(&position)
	return
}

// GetOrSet is the value of a key, from the cache or from the loader.
func (c *Cache) GetOrSet(ctx context.Context, key string, load Loader, o Options) ([]byte, error) {
	deadline := time.Now().Add(or(o.Patience, 2*time.Second))
	pause := 5 * time.Millisecond
	answer, err := c.Get(ctx, key, o)
	for err == nil && answer.State == "wait" && time.Now().Before(deadline) {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause/2 + time.Duration(rand.Int63n(int64(pause/2)))):
		}
		if pause *= 2; pause > 100*time.Millisecond {
			pause = 100 * time.Millisecond
		}
		answer, err = c.Get(ctx, key, o)
	}
	if err != nil {
		return nil, err
	}
	if !answer.Served() {
		return c.fill(ctx, key, load, answer, o)
	}
	if answer.Lease != "" {
		c.Refresh(func(ctx context.Context) error {
			_, err := c.fill(ctx, key, load, answer, o)
			return err
		})
	}
	return answer.Payload, nil
}

func (c *Cache) fill(ctx context.Context, key string, load Loader, answer Answer, o Options) (value []byte, err error) {
	token := answer.Token
	stored := false
	defer func() {
		if !stored { // an error, or a panic, is never stored; the next caller need not wait
			_, _ = c.Put(context.Background(), key, nil, "", nil, 0, answer.Lease, o)
		}
	}()
	if token != "" && o.Covers != nil {
		covered, err := o.Covers(ctx, token)
		if err != nil {
			return nil, err
		}
		if !covered {
			token = ""
		}
	}
	began := time.Now()
	value, tags, err := load(ctx) // after the token was given: that is what makes the fill sound
	if err != nil {
		return nil, err
	}
	_, err = c.Put(ctx, key, value, token, tags, time.Since(began), answer.Lease, o)
	stored = err == nil
	return value, err
}

// Get asks the cache.
func (c *Cache) Get(ctx context.Context, key string, o Options) (Answer, error) {
	var options []interface{}
	if o.MaxLag != 0 {
		options = append(options, "MAXLAG", o.MaxLag.Milliseconds())
	}
	if o.AtLeast != "" {
		options = append(options, "ATLEAST", o.AtLeast)
	}
	reply, err := redis.Values(c.call(ctx, "cachetag_get", key, options...))
	if err == redis.ErrNil || err == nil && len(reply) < 5 {
		return Answer{State: "bypass", Age: -1}, nil
	}
	var a Answer
	var age int64
	if err == nil {
		a.Payload, _ = reply[1].([]byte)
		_, err = redis.Scan(append(reply[:1:1], reply[2:]...), &a.State, &a.Token, &a.Lease, &age)
	}
	a.Age = time.Duration(age) * time.Millisecond
	return a, err
}

// Put tells whether it stored. Without a token it never does, but the lease is given back.
func (c *Cache) Put(ctx context.Context, key string, value []byte, token string, tags []string, cost time.Duration, lease string, o Options) (bool, error) {
	if token == "" && lease == "" {
		return false, nil
	}
	ttl := or(o.TTL, 10*time.Minute)
	if value == nil {
		ttl = or(o.AbsentTTL, 30*time.Second)
	}
	args := []interface{}{value, token, max1(ttl), "TAGS", len(tags)}
	for _, tag := range tags {
		args = append(args, tag)
	}
	args = append(args, "COST", cost.Milliseconds())
	if value == nil {
		args = append(args, "ABSENT")
	}
	if o.Fresh != 0 {
		args = append(args, "FRESH", max1(o.Fresh))
	}
	if lease != "" {
		args = append(args, "LEASE", lease)
	}
	reply, err := redis.Values(c.call(ctx, "cachetag_put", key, args...))
	if err == redis.ErrNil {
		return false, nil
	}
	return err == nil && fmt.Sprintf("%s", reply[0]) == "stored", err
}

// Drop removes an entry.
func (c *Cache) Drop(ctx context.Context, key string) (bool, error) {
	removed, err := redis.Int(c.call(ctx, "cachetag_drop", key))
	if err == redis.ErrNil {
		err = nil
	}
	return removed == 1, err
}

// The reply; nil if Redis cannot serve now (down, full, not loaded yet). A mistake of the caller is an error.
func (c *Cache) call(ctx context.Context, function, key string, args ...interface{}) (interface{}, error) {
	conn, err := c.pool.GetContext(ctx)
	if err != nil {
		return nil, ctx.Err()
	}
	defer conn.Close()
	reply, err := conn.Do("FCALL", append([]interface{}{function, 1, c.prefix + key}, args...)...)
	if err != nil && !strings.HasPrefix(err.Error(), "CACHETAG") {
		return nil, nil
	}
	return reply, err
}

func or(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

func max1(d time.Duration) int64 {
	if d < time.Millisecond {
		return 1
	}
	return d.Milliseconds()
}

const char = `(?:[^\x00-\x20\x7f:%*{}]|%(?:[01][0-9A-F]|20|25|2A|3A|7B|7D|7F))`

var canonical = regexp.MustCompile(`\A(?:\*|(` + char + `+)(?::\*|(?::` + char + `*)*))\z`)

// Encode writes a family or a part of a tag, text as it is and integers by strconv; what else a column holds, let cachetag.tag() render in
// the query.
func Encode(part string) string {
	var text strings.Builder
	for i := 0; i < len(part); i++ {
		if b := part[i]; b <= ' ' || b == 0x7f || strings.IndexByte(":%*{}", b) >= 0 {
			fmt.Fprintf(&text, "%%%02X", b)
		} else {
			text.WriteByte(b)
		}
	}
	return text.String()
}

// Tag is family:part:...; a tag of a row is better taken from the query, by cachetag.tag().
func Tag(family string, parts ...string) (string, error) {
	text := Encode(family)
	for _, part := range parts {
		text += ":" + Encode(part)
	}
	if !IsTag(text) {
		return "", fmt.Errorf("no tag: %.80q has no family, is longer than 512 bytes, or is not UTF-8", text)
	}
	return text, nil
}

// WholeFamily is the tag of all tags of a family.
func WholeFamily(family string) (string, error) {
	tag, err := Tag(family)
	return tag + ":*", err
}

// IsTag tells whether a text is a canonical tag.
func IsTag(text string) bool {
	match := canonical.FindStringSubmatch(text)
	// <family>:* must be a tag too.
	return match != nil && utf8.ValidString(text) && len(text) <= 512 && len(match[1]) <= 510
}
