"""What a suite does with a service, by its usual client library: each writes, and gives what it reads back."""

from __future__ import annotations

import httpx
import pika
import psycopg
import pymysql
import redis


def ask_postgres(service):
    with psycopg.connect(service.url) as connection:
        connection.execute("CREATE TABLE word (text text)")
        connection.execute("INSERT INTO word VALUES ('kept')")
        return connection.execute("SELECT text FROM word").fetchone()[0]


def ask_mysql(service):
    with pymysql.connect(
        host=service.host,
        port=service.port,
        user=service.user,
        password=service.password,
        database=service.database,
    ) as connection:
        cursor = connection.cursor()
        cursor.execute("CREATE TABLE word (text TEXT)")
        cursor.execute("INSERT INTO word VALUES ('kept')")
        cursor.execute("SELECT text FROM word")
        return cursor.fetchone()[0]


def ask_redis(service):
    with redis.Redis.from_url(service.url, decode_responses=True) as client:
        client.set("word", "kept")
        return client.get("word")


def ask_rabbitmq(service):
    connection = pika.BlockingConnection(pika.URLParameters(service.url))
    channel = connection.channel()
    channel.queue_declare("words")
    channel.basic_publish("", "words", b"kept")
    body = channel.basic_get("words", auto_ack=True)[2]
    connection.close()
    return body.decode()


def ask_nginx(service):
    service.container.exec("echo kept >/usr/share/nginx/html/word", check=True)
    return httpx.get(f"{service.url}/word").text.strip()
