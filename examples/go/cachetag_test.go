// Against a real PostgreSQL, Redis and daemon: scripts/examples.sh starts them and runs this.

package cachetag

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"
	"github.com/lib/pq"
)

const product = `SELECT (SELECT json_build_object('name', name, 'price', price) FROM products WHERE id = $1), ARRAY[cachetag.tag('product', $1::int)]`
const category = `SELECT json_agg(id ORDER BY id), cachetag.tag_agg(cachetag.tag('product', id)) || cachetag.tag('category', $1::int)
                    FROM products WHERE category_id = $1`

var (
	ctx  = context.Background()
	runs int64
	db   = func() *sql.DB {
		db, err := sql.Open("postgres", os.Getenv("POSTGRES_URL")+"?sslmode=disable")
		if err != nil {
			panic(err)
		}
		return db
	}()
	pool = &redis.Pool{Dial: func() (redis.Conn, error) { return redis.DialURL(os.Getenv("REDIS_URL")) }}
)

type queries interface {
	QueryRowContext(ctx context.Context, query string, args ...interface{}) *sql.Row
}

// What each test has: keys of its own; the changes are plain SQL.
type shop struct {
	*testing.T
	cache *Cache
	run   string
	loads int64
}

func open(t *testing.T) *shop {
	return &shop{T: t, cache: New(pool), run: fmt.Sprintf("%d-%d", time.Now().UnixNano(), atomic.AddInt64(&runs, 1))}
}

func (s *shop) key(id int) string { return fmt.Sprintf("%s:%d", s.run, id) }

func (s *shop) load(session queries, query string, id int) Loader {
	return func(ctx context.Context) (value []byte, tags []string, err error) {
		atomic.AddInt64(&s.loads, 1)
		err = session.QueryRowContext(ctx, query, id).Scan(&value, pq.Array(&tags))
		return
	}
}

func (s *shop) page(id int, o Options) string { return s.read(s.cache, product, id, o) }

func (s *shop) read(cache *Cache, query string, id int, o Options) string {
	s.Helper()
	page, err := cache.GetOrSet(ctx, s.key(id), s.load(db, query, id), o)
	s.ok(err)
	return string(page)
}

func (s *shop) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *shop) same(expected, actual interface{}) {
	s.Helper()
	if expected != actual {
		s.Fatalf("expected %v, got %v", expected, actual)
	}
}

func (s *shop) sql(query string, args ...interface{}) {
	s.Helper()
	_, err := db.Exec(query, args...)
	s.ok(err)
}

func (s *shop) caughtUp() {
	s.Helper()
	var yes bool
	s.ok(db.QueryRow("SELECT cachetag.wait_for(timeout => '20s')").Scan(&yes))
	s.same(true, yes)
}

func (s *shop) price(id, price int) { s.sql("UPDATE products SET price = $2 WHERE id = $1", id, price) }

func (s *shop) eventually(what string, condition func() bool) {
	s.Helper()
	for end := time.Now().Add(20 * time.Second); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			s.Fatal("not within 20 s: " + what)
		}
	}
}

func (s *shop) untilCached(id int, o Options) { s.untilHit(func() { s.page(id, o) }) }

func (s *shop) untilHit(read func()) {
	s.Helper()
	s.eventually("a hit", func() bool { // right after a bump a fill may be refused
		before := atomic.LoadInt64(&s.loads)
		read()
		return before == atomic.LoadInt64(&s.loads)
	})
}

func (s *shop) peek(id int) string { // takes no lease
	conn := pool.Get()
	defer conn.Close()
	reply, err := redis.Values(conn.Do("FCALL_RO", "cachetag_peek", 1, "{ct}:e:"+s.key(id)))
	s.ok(err)
	return fmt.Sprintf("%s", reply[0])
}

func page(id int, price interface{}) string {
	return fmt.Sprintf(`{"name" : "Product %d", "price" : %v.00}`, id, price)
}

func TestChangeOfTheRowChangesThePage(t *testing.T) {
	s := open(t)
	for price := 100; price < 120; price++ {
		s.price(81, price)
		s.eventually("the new price", func() bool { return s.page(81, Options{}) == page(81, price) })
		for again := 0; again < 5; again++ {
			s.same(page(81, price), s.page(81, Options{}))
		}
	}
}

func TestNoReaderSeesWhatTheCacheHasPassed(t *testing.T) {
	s := open(t)
	var passed, seen int64
	var done int32
	var readers sync.WaitGroup
	s.price(82, 0)
	for reader := 0; reader < 3; reader++ {
		readers.Add(1)
		go func() {
			defer readers.Done()
			for atomic.LoadInt32(&done) == 0 {
				least := atomic.LoadInt64(&passed)
				var page struct{ Price float64 }
				value, err := s.cache.GetOrSet(ctx, s.key(82), s.load(db, product, 82), Options{})
				if err == nil {
					err = json.Unmarshal(value, &page)
				}
				if err != nil || page.Price < float64(least) {
					t.Errorf("%v after %d: %v", page.Price, least, err)
					return
				}
				atomic.AddInt64(&seen, 1)
			}
		}()
	}
	for price := 1; price <= 60; price++ {
		s.price(82, price)
		s.caughtUp()
		atomic.StoreInt64(&passed, int64(price))
	}
	atomic.StoreInt32(&done, 1)
	readers.Wait()
	s.same(true, seen > 60)
}

func TestListFallsWhenARowJoinsIt(t *testing.T) {
	s := open(t)
	list := func() string { return s.read(s.cache, category, 1, Options{}) }
	s.untilHit(func() { list() })
	before := list()
	s.sql("UPDATE products SET category_id = 1 WHERE id = 98")
	s.eventually("the new row", func() bool { return strings.Contains(list(), "98") })
	s.sql("UPDATE products SET category_id = 9 WHERE id = 98")
	s.eventually("the row to leave", func() bool { return list() == before })
}

func TestAbsentIsCachedUntilTheRowComes(t *testing.T) {
	s := open(t)
	s.untilCached(906, Options{})
	answer, err := s.cache.Get(ctx, s.key(906), Options{})
	s.ok(err)
	s.same(true, answer.State == "hit" && answer.Payload == nil && answer.Age >= 0)
	s.sql("INSERT INTO products VALUES (906, 1, 'New', 1)")
	s.eventually("the new row", func() bool { return s.page(906, Options{}) == `{"name" : "New", "price" : 1.00}` })
	s.sql("DELETE FROM products WHERE id = 906")
	s.eventually("the row to go", func() bool { return s.page(906, Options{}) == "" })
}

func TestErrorsAreNotStoredAndGiveTheLeaseBack(t *testing.T) {
	s := open(t)
	no := errors.New("no")
	_, err := s.cache.GetOrSet(ctx, s.key(1), func(context.Context) ([]byte, []string, error) { return nil, nil, no }, Options{})
	s.same(no, err)
	answer, err := s.cache.Get(ctx, s.key(1), Options{})
	s.ok(err)
	s.same("miss", answer.State)
}

func TestReadYourWrites(t *testing.T) {
	s := open(t)
	for price := 300; price < 330; price++ {
		s.untilCached(83, Options{})
		s.price(83, price)
		position, err := Position(ctx, db)
		s.ok(err)
		s.same(page(83, price), s.page(83, Options{AtLeast: position}))
	}
	position, err := Position(ctx, db)
	s.ok(err)
	s.untilCached(83, Options{AtLeast: position})
	before := s.loads
	s.page(83, Options{AtLeast: "FFFFFFFF/0"}) // a commit that the cache has not seen
	s.same(before+1, s.loads)
}

func TestStaleWhileRevalidate(t *testing.T) {
	s := open(t)
	s.untilCached(84, Options{})
	s.sql("SELECT cachetag.invalidate_soft('product:84')")
	s.eventually("stale", func() bool { return s.peek(84) == "stale" })
	var later []func(context.Context) error
	s.cache.Refresh = func(fill func(context.Context) error) { later = append(later, fill) }
	before := s.loads
	for reader := 0; reader < 3; reader++ {
		s.same(page(84, 94), s.page(84, Options{})) // served, nobody waits
	}
	s.same(before, s.loads)
	s.same(1, len(later)) // one refreshes
	s.ok(later[0](ctx))
	s.same(before+1, s.loads)
	s.cache.Refresh = New(pool).Refresh
	s.eventually("a fresh entry", func() bool { s.page(84, Options{}); return s.peek(84) == "hit" })
}

func TestFreshTime(t *testing.T) {
	s := open(t)
	s.untilCached(85, Options{Fresh: 300 * time.Millisecond})
	s.eventually("stale", func() bool { return s.peek(85) == "stale" })
	before := atomic.LoadInt64(&s.loads)
	s.same(page(85, 95), s.page(85, Options{Fresh: time.Minute}))
	s.eventually("the refresh", func() bool { return atomic.LoadInt64(&s.loads) == before+1 && s.peek(85) == "hit" })
}

func TestBypassReadsTheDatabaseAndStoresNothing(t *testing.T) {
	s := open(t)
	down := &redis.Pool{Dial: func() (redis.Conn, error) { return redis.Dial("tcp", "127.0.0.1:1") }}
	for _, cache := range []*Cache{NewIn(pool, "nobody"), New(down)} { // no daemon feeds it; no Redis
		before := s.loads
		s.same(page(10, 20), s.read(cache, product, 10, Options{}))
		s.same(page(10, 20), s.read(cache, product, 10, Options{}))
		s.same(before+2, s.loads)
	}
	conn := pool.Get()
	defer conn.Close()
	keys, err := redis.Strings(conn.Do("KEYS", "{nobody}:*"))
	s.ok(err)
	s.same(0, len(keys))
}

func TestMistakeOfTheCallerIsAnError(t *testing.T) {
	s := open(t)
	_, err := s.cache.GetOrSet(ctx, s.key(1), func(context.Context) ([]byte, []string, error) { return []byte("1"), []string{"not a tag"}, nil }, Options{})
	s.same(true, err != nil && strings.HasPrefix(err.Error(), "CACHETAG TAGS"))
}

func TestWhatAWritersTransactionReadIsNotStored(t *testing.T) {
	s := open(t)
	read := func(session queries) string {
		covers := func(ctx context.Context, token string) (yes bool, err error) {
			err = session.QueryRowContext(ctx, "SELECT cachetag.covers($1)", token).Scan(&yes)
			return
		}
		page, err := s.cache.GetOrSet(ctx, s.key(86), s.load(session, product, 86), Options{Covers: covers})
		s.ok(err)
		return string(page)
	}
	tx, err := db.Begin()
	s.ok(err)
	_, err = tx.Exec("UPDATE products SET price = 0 WHERE id = 86")
	s.ok(err)
	s.same(page(86, 0), read(tx))
	s.ok(tx.Rollback())
	s.same(page(86, 96), read(db))
}

func TestOfThreeProcessesOneLoads(t *testing.T) {
	key := os.Getenv("RACE")
	if key != "" { // one of the racers that this test starts
		race(t, key)
		return
	}
	s := open(t)
	key = s.key(87)
	var outputs [3]bytes.Buffer
	var racers []*exec.Cmd
	for i := range outputs {
		racer := exec.Command(os.Args[0], "-test.run", "^TestOfThreeProcessesOneLoads$")
		racer.Env, racer.Stdout = append(os.Environ(), "RACE="+key), &outputs[i]
		s.ok(racer.Start())
		racers = append(racers, racer)
	}
	for i, racer := range racers {
		s.ok(racer.Wait())
		s.same(true, strings.HasPrefix(outputs[i].String(), page(87, 97)+"\n"))
	}
	conn := pool.Get()
	defer conn.Close()
	loads, err := redis.Int(conn.Do("GET", key+":loads"))
	s.ok(err)
	s.same(1, loads)
}

func race(t *testing.T, key string) {
	s, conn := open(t), pool.Get()
	defer conn.Close()
	_, err := conn.Do("INCR", key+":ready")
	s.ok(err)
	s.eventually("the other racers", func() bool { ready, _ := redis.Int(conn.Do("GET", key+":ready")); return ready == 3 })
	page, err := s.cache.GetOrSet(ctx, key, func(ctx context.Context) ([]byte, []string, error) {
		_, err := conn.Do("INCR", key+":loads")
		s.ok(err)
		time.Sleep(200 * time.Millisecond)
		return s.load(db, product, 87)(ctx)
	}, Options{Patience: 20 * time.Second})
	s.ok(err)
	fmt.Printf("%s\n", page)
}

func TestTags(t *testing.T) {
	s := open(t)
	text, err := os.ReadFile("../../core/vectors/tags.json")
	s.ok(err)
	var vectors struct {
		Built, NotBuilt, Accepted []struct {
			Family, Tag string
			Parts       []string
			WholeFamily string `json:"whole_family"`
		}
		Rejected []struct{ Text string }
		Bytes    []struct{ Hex string } `json:"rejected_bytes"`
		Parts    []struct {
			Raw     string `json:"raw_hex"`
			Encoded string
		}
	}
	s.ok(json.Unmarshal(bytes.Replace(text, []byte(`"not_built"`), []byte(`"NotBuilt"`), 1), &vectors))
	for _, v := range vectors.Built {
		tag, err := Tag(v.Family, v.Parts...)
		s.ok(err)
		s.same(v.Tag, tag)
		whole, err := WholeFamily(v.Family)
		s.ok(err)
		s.same(v.WholeFamily, whole)
		s.same(true, IsTag(tag))
	}
	for _, v := range vectors.NotBuilt {
		tag, err := Tag(v.Family, v.Parts...)
		s.same("", tag)
		s.same(true, err != nil)
	}
	for _, v := range vectors.Accepted {
		s.same(true, IsTag(v.Tag))
	}
	for _, v := range vectors.Rejected {
		s.same(v.Text+" false", v.Text+fmt.Sprint(" ", IsTag(v.Text)))
	}
	for _, v := range vectors.Bytes {
		raw, err := hex.DecodeString(v.Hex)
		s.ok(err)
		s.same(false, IsTag(string(raw)))
	}
	for _, v := range vectors.Parts {
		raw, err := hex.DecodeString(v.Raw)
		s.ok(err)
		s.same(v.Encoded, Encode(string(raw)))
	}
	s.same(true, len(vectors.Built) > 30 && len(vectors.NotBuilt) > 5 && len(vectors.Rejected) > 30 && len(vectors.Parts) == 128)
	for _, part := range []string{"42", "a:b c", "50%", "{x}*", "é東"} {
		var theirs string
		s.ok(db.QueryRow("SELECT cachetag.tag('f', $1::text)", part).Scan(&theirs))
		ours, err := Tag("f", part)
		s.ok(err)
		s.same(theirs, ours)
	}
}
