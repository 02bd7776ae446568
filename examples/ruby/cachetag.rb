# A cache in front of PostgreSQL that is never wrong for long: cachetag with the gem redis.
#
#   cache = Cachetag::Cache.new(Redis.new(url: "redis://..."))
#   page = cache.get_or_set("page:product:#{id}") { db.exec_params(QUERY, [id]).values.first }
#
# The block returns the value (JSON, or nil: there is nothing, which is cached too) and its tags, which come from the same query:
#
#   SELECT (SELECT json_build_object('name', name) FROM products WHERE id = $1), ARRAY[cachetag.tag('product', $1::int)]
#
# With the gem pg, `db.type_map_for_results = Cachetag.types(db)` makes arrays of text[] and values of json.

require "json"
require "redis"

module Cachetag
  Answer = Struct.new(:state, :payload, :token, :lease, :age_ms) do
    def served? = %w[hit stale early].include?(state)
  end

  # After a COMMIT: what to hand to get_or_set(at_least:), so that a hit covers that commit.
  def self.position(db) = db.exec("SELECT cachetag.position()").getvalue(0, 0)

  def self.types(db)
    PG::BasicTypeMapForResults.new(db).tap { |types| types.default_type_map = PG::TypeMapAllStrings.new }
  end

  class Cache
    # `refresh` runs a proc later, for stale entries; the default is a thread.
    def initialize(redis, namespace: "ct", refresh: nil)
      @redis, @prefix = redis, "{#{namespace}}:e:"
      @refresh = refresh || ->(fill) { Thread.new { fill.call }.tap { |thread| thread.report_on_exception = true } }
    end

    # The value of `key`. Times are seconds. `covers` asks the session that loads, SELECT cachetag.covers(token): give it where the
    # block may run in a transaction that has written or is REPEATABLE READ, or on a standby.
    def get_or_set(key, ttl: 600, absent_ttl: 30, fresh: nil, max_lag: nil, at_least: nil, covers: nil, patience: 2, &load)
      fill = lambda do |answer|
        token = answer.token
        token = "" if covers && !token.empty? && !covers.call(token)
        began = now
        value, tags = load.call # after the token was given: that is what makes the fill sound
        put(key, value, token, tags, ttl: value.nil? ? absent_ttl : ttl, fresh: fresh, cost: now - began, lease: answer.lease)
        value
      rescue Exception
        put(key, nil, "", [], lease: answer.lease) # an error is never stored; the next caller need not wait
        raise
      end

      deadline, pause = now + patience, 0.005
      answer = get(key, max_lag: max_lag, at_least: at_least)
      while answer.state == "wait" && now < deadline
        sleep(pause * rand(0.5..1.0))
        pause = [pause * 2, 0.1].min
        answer = get(key, max_lag: max_lag, at_least: at_least)
      end
      return fill.call(answer) unless answer.served?

      @refresh.call(-> { fill.call(answer) }) unless answer.lease.empty?
      answer.payload && JSON.parse(answer.payload)
    end

    def get(key, max_lag: nil, at_least: nil)
      options = max_lag ? ["MAXLAG", (max_lag * 1000).round] : []
      options.push("ATLEAST", at_least) if at_least
      reply = call("cachetag_get", key, *options)
      reply ? Answer.new(*reply) : Answer.new("bypass", nil, "", "", -1)
    end

    # Whether it was stored. Without a token it never is, but the lease is given back.
    def put(key, value, token, tags, ttl: 600, fresh: nil, cost: 0, lease: "")
      return false if token.empty? && lease.empty?

      args = [value.nil? ? "" : JSON.generate(value), token, milliseconds(ttl), "TAGS", tags.size, *tags, "COST", (cost * 1000).round]
      args.push("ABSENT") if value.nil?
      args.push("FRESH", milliseconds(fresh)) if fresh
      args.push("LEASE", lease) unless lease.empty?
      reply = call("cachetag_put", key, *args)
      !reply.nil? && reply.first == "stored"
    end

    def drop(key) = call("cachetag_drop", key) == 1

    private

    # The reply; nil if Redis cannot serve now (down, full, not loaded yet). A mistake of the caller raises.
    def call(function, key, *args)
      @redis.call("FCALL", function, 1, @prefix + key, *args)
    rescue Redis::BaseError => error
      raise if error.message.start_with?("CACHETAG")
    end

    def now = Process.clock_gettime(Process::CLOCK_MONOTONIC)

    def milliseconds(seconds) = [1, (seconds * 1000).round].max
  end

  RAW = /[\x00-\x20\x7f:%*{}]/
  CHAR = /(?:[^\x00-\x20\x7f:%*{}]|%(?:[01][0-9A-F]|20|25|2A|3A|7B|7D|7F))/
  TAG = /\A(?:\*|(#{CHAR}+)(?::\*|(?::#{CHAR}*)*))\z/

  # A family or a part of a tag. Text and integers only: what else a column holds, let cachetag.tag() render in the query.
  def self.encode(part)
    unless part.is_a?(String) || part.is_a?(Integer)
      raise TypeError, "a part of a tag is text or an integer, not #{part.class}: use cachetag.tag() in the query"
    end

    part.to_s.encode("UTF-8").gsub(RAW) { |byte| format("%%%02X", byte.ord) }
  end

  # The tag family:part:...; a tag of a row is better taken from the query, by cachetag.tag().
  def self.tag(family, *parts)
    text = [family, *parts].map { |part| encode(part) }.join(":")
    raise ArgumentError, "no tag: #{text[0, 80].inspect} has no family or is longer than 512 bytes" unless tag?(text)

    text
  end

  def self.whole_family(family) = "#{tag(family)}:*"

  # Is it a canonical tag?
  def self.tag?(text)
    text = text.dup.force_encoding("UTF-8")
    match = text.valid_encoding? && TAG.match(text)
    # <family>:* must be a tag too.
    match ? text.bytesize <= 512 && match[1].to_s.bytesize <= 510 : false
  end
end
