# Against a real PostgreSQL, Redis and daemon: scripts/examples.sh starts them and runs this.

require "minitest/autorun"
require "pg"
require "securerandom"
require_relative "cachetag"

REDIS_AT, POSTGRES_AT = ENV.fetch("REDIS_URL"), ENV.fetch("POSTGRES_URL")
VECTORS = JSON.parse(File.read(File.expand_path("../../core/vectors/tags.json", __dir__), encoding: "UTF-8"))

PRODUCT = <<~SQL
  SELECT (SELECT json_build_object('name', name, 'price', price) FROM products WHERE id = $1), ARRAY[cachetag.tag('product', $1::int)]
SQL
CATEGORY = <<~SQL
  SELECT json_agg(name ORDER BY id), cachetag.tag_agg(cachetag.tag('product', id)) || cachetag.tag('category', $1::int)
    FROM products WHERE category_id = $1
SQL

def connect
  PG.connect(POSTGRES_AT).tap { |db| db.type_map_for_results = Cachetag.types(db) }
end

def eventually(what, seconds = 20)
  deadline = Process.clock_gettime(Process::CLOCK_MONOTONIC) + seconds
  until yield
    raise "not within #{seconds} s: #{what}" if Process.clock_gettime(Process::CLOCK_MONOTONIC) > deadline

    sleep 0.005
  end
end

class Shop < Minitest::Test
  def setup
    @db, @writer, @redis = connect, connect, Redis.new(url: REDIS_AT)
    @cache, @run, @loads = Cachetag::Cache.new(@redis), SecureRandom.hex(4), 0
  end

  def teardown
    [@db, @writer].each(&:close)
  end

  def page(id, query: PRODUCT, cache: @cache, **options)
    cache.get_or_set("#{@run}:#{id}", **options) do
      @loads += 1
      @db.exec_params(query, [id]).values.first
    end
  end

  def until_cached(id, **options)
    eventually("a hit") do # right after a bump a fill may be refused
      before = @loads
      page(id, **options)
      @loads == before
    end
  end

  def peek(id) = @redis.call("FCALL_RO", "cachetag_peek", 1, "{ct}:e:#{@run}:#{id}").first # takes no lease

  def price(id, price) = @writer.exec_params("UPDATE products SET price = $2 WHERE id = $1", [id, price])
end

class Reading < Shop
  def test_second_reader_hits
    until_cached(31)
    before = @loads
    assert_equal({ "name" => "Product 31", "price" => 41 }, page(31))
    assert_equal before, @loads
  end

  def test_a_change_of_the_row_changes_the_page
    100.upto(119) do |price|
      price(32, price)
      eventually("the new price") { page(32)["price"] == price }
      5.times { assert_equal price, page(32)["price"], "an old value came back" }
    end
  end

  def test_no_reader_sees_what_the_cache_has_passed
    passed, done, seen = 0, false, Queue.new
    price(33, 0)
    readers = Array.new(3) do
      Thread.new do
        db, cache = connect, Cachetag::Cache.new(Redis.new(url: REDIS_AT))
        until done
          least = passed
          seen << [least, cache.get_or_set("#{@run}:fire") { db.exec_params(PRODUCT, [33]).values.first }["price"]]
        end
        db.close
      end
    end
    1.upto(60) do |price|
      price(33, price)
      passed = price if @writer.exec("SELECT cachetag.wait_for(timeout => '20s')").getvalue(0, 0)
    end
    done = true
    readers.each(&:join)
    assert_equal 60, passed
    pairs = Array.new(seen.size) { seen.pop }
    assert_operator pairs.size, :>, 60
    assert_empty(pairs.select { |least, price| price < least })
  end

  def test_a_list_falls_when_a_row_joins_it
    until_cached(7, query: CATEGORY)
    before = page(7, query: CATEGORY)
    @writer.exec("UPDATE products SET category_id = 7 WHERE id = 43")
    eventually("the new row") { page(7, query: CATEGORY).include?("Product 43") }
    @writer.exec("UPDATE products SET category_id = 4 WHERE id = 43")
    eventually("the row to leave") { page(7, query: CATEGORY) == before }
  end

  def test_absent_is_cached_until_the_row_comes
    until_cached(902)
    assert_nil page(902)
    answer = @cache.get("#{@run}:902")
    assert_equal ["hit", nil, true], [answer.state, answer.payload, answer.age_ms >= 0]
    @writer.exec("INSERT INTO products VALUES (902, 1, 'New', 1)")
    eventually("the new row") { page(902)&.fetch("name") == "New" }
    @writer.exec("DELETE FROM products WHERE id = 902")
    eventually("the row to go") { page(902).nil? }
  end

  def test_errors_are_not_stored_and_give_the_lease_back
    assert_raises(KeyError) { @cache.get_or_set("#{@run}:1") { raise KeyError } }
    assert_equal "miss", @cache.get("#{@run}:1").state
  end
end

class Consistency < Shop
  def test_read_your_writes
    300.upto(329) do |price|
      until_cached(34)
      price(34, price)
      assert_equal price, page(34, at_least: Cachetag.position(@writer))["price"]
    end
    until_cached(34, at_least: Cachetag.position(@writer))
    before = @loads
    page(34, at_least: "FFFFFFFF/0") # a commit that the cache has not seen
    assert_equal before + 1, @loads
  end

  def test_stale_while_revalidate
    until_cached(35)
    old, later = page(35), []
    @writer.exec("SELECT cachetag.invalidate_soft('product:35')")
    eventually("stale") { peek(35) == "stale" }
    cache, before = Cachetag::Cache.new(@redis, refresh: ->(fill) { later << fill }), @loads
    3.times { assert_equal old, page(35, cache: cache) } # served, nobody waits
    assert_equal [before, 1], [@loads, later.size] # one refreshes
    later.first.call
    assert_equal before + 1, @loads
    eventually("a fresh entry") { page(35) && peek(35) == "hit" }
  end

  def test_fresh_time
    until_cached(36, fresh: 0.3)
    eventually("stale") { peek(36) == "stale" }
    before = @loads
    assert_equal "Product 36", page(36, fresh: 60)["name"]
    eventually("the refresh") { @loads == before + 1 && peek(36) == "hit" }
  end

  def test_a_bypass_reads_the_database_and_stores_nothing
    cache = Cachetag::Cache.new(@redis, namespace: "nobody") # no daemon feeds it
    [1, 2].each do |loads|
      assert_equal "Product 10", page(10, cache: cache)["name"]
      assert_equal loads, @loads
    end
    assert_empty @redis.keys("{nobody}:*")
  end

  def test_a_redis_that_is_down_is_a_bypass
    down = Redis.new(port: 1, reconnect_attempts: 0)
    assert_equal "Product 10", page(10, cache: Cachetag::Cache.new(down))["name"]
  end

  def test_a_mistake_of_the_caller_raises
    error = assert_raises(Redis::CommandError) { @cache.get_or_set("#{@run}:x") { [1, ["not a tag"]] } }
    assert_match(/\ACACHETAG TAGS/, error.message)
  end

  def test_what_was_read_in_a_writers_transaction_is_not_stored
    covers = ->(token) { @db.exec_params("SELECT cachetag.covers($1)", [token]).getvalue(0, 0) }
    @db.exec("BEGIN; UPDATE products SET price = 0 WHERE id = 37")
    assert_equal 0, page(37, covers: covers)["price"]
    @db.exec("ROLLBACK")
    assert_equal 47, page(37, covers: covers)["price"]
  end

  def test_of_three_processes_one_loads
    key = "#{@run}:race"
    pipes = Array.new(3) { IO.popen("-") || race(key) }
    pages = pipes.map(&:read)
    pipes.each(&:close)
    assert_equal [%({"name":"Product 38","price":48.0})] * 3, pages
    assert_equal "1", @redis.get("#{key}:loads")
  end

  def race(key) # in a child
    redis, db = Redis.new(url: REDIS_AT), connect
    redis.incr("#{key}:ready")
    eventually("the other racers") { redis.get("#{key}:ready") == "3" }
    page = Cachetag::Cache.new(redis).get_or_set(key, patience: 20) do
      redis.incr("#{key}:loads")
      sleep 0.2
      db.exec_params(PRODUCT, [38]).values.first
    end
    $stdout.write(JSON.generate(page))
    $stdout.flush
  ensure
    exit!
  end
end

class Tags < Minitest::Test
  def test_built
    VECTORS["built"].each do |vector|
      assert_equal vector["tag"], Cachetag.tag(vector["family"], *vector["parts"])
      assert_equal vector["whole_family"], Cachetag.whole_family(vector["family"])
      assert Cachetag.tag?(vector["tag"])
    end
  end

  def test_not_built
    VECTORS["not_built"].each { |vector| assert_raises(ArgumentError) { Cachetag.tag(vector["family"], *vector["parts"]) } }
  end

  def test_accepted_and_rejected
    VECTORS["accepted"].each { |vector| assert Cachetag.tag?(vector["tag"]), vector["tag"] }
    VECTORS["rejected"].each { |vector| refute Cachetag.tag?(vector["text"]), vector["text"] }
    VECTORS["rejected_bytes"].each { |vector| refute Cachetag.tag?([vector["hex"]].pack("H*")), vector["hex"] }
  end

  def test_parts
    VECTORS["parts"].each { |vector| assert_equal vector["encoded"], Cachetag.encode([vector["raw_hex"]].pack("H*").force_encoding("UTF-8")) }
    assert_raises(TypeError) { Cachetag.encode(true) }
  end

  def test_the_database_agrees
    db = connect
    ["42", "a:b c", "50%", "{x}*", "é東"].each do |part|
      assert_equal Cachetag.tag("f", part), db.exec_params("SELECT cachetag.tag('f', $1::text)", [part]).getvalue(0, 0)
    end
    db.close
  end
end
